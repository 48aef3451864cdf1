"""`harvest-assets score RUN --method METHOD`: scores of components, or of their labels."""

from __future__ import annotations

from typing import Any

import click

from harvest_assets.autointerp.settings import BASELINE
from harvest_assets.cli.common_options import (
    RUN_OR_HARVEST_HELP,
    complete_harvest,
    debug_option,
    json_option,
)
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.harvest_choice import harvest_to_read
from harvest_assets.cli.interpretation import (
    interpret,
    interpretation_options,
    print_estimate,
    print_report,
    progress_bar,
    settings_of,
)
from harvest_assets.errors import HarvestError


@click.command(
    help=f"""Score how interpretable components are, or how good their labels are.

\b
  intruder    does a language model find the one context that is another component's?
  baseline    the same trials by token statistics and by the model's own embeddings: no calls
  detection   does the label say where the component fires?
  fuzzing     does the label say which tokens it fires on?

Scores are kept beside the results, with 95 % intervals. What is answered is never asked again:
after an interruption the same command continues.

{RUN_OR_HARVEST_HELP}
""",
)
@click.argument("run", shell_complete=complete_harvest)
@click.option(
    "--method",
    type=click.Choice(["intruder", BASELINE, "detection", "fuzzing"]),
    required=True,
    help="What is tried.",
)
@interpretation_options
@json_option
@debug_option
def score(run: str, *, method: str, debug: bool, **options: Any) -> None:
    """Score components, or their labels."""
    with errors_reported(debug=debug):
        choice, settings = settings_of(options, calls=method != BASELINE)
        if method == BASELINE and (options["answers"] or options["export"]):
            raise HarvestError("The baseline asks nothing; leave out --answers and --export.")
        paths = harvest_to_read(run)

        from harvest_assets.autointerp.asking import Estimate
        from harvest_assets.autointerp.baseline_task import run_baseline
        from harvest_assets.autointerp.task import Task
        from harvest_assets.autointerp.trials import Method

        if method != BASELINE:
            task = Task(paths, choice, Method(method))
            interpret(task, settings, options)
        elif options["dry_run"]:
            print_estimate(Estimate(0, 0, 0, 0.0))
        else:
            with progress_bar() as watch:
                report = run_baseline(paths, choice, watch)
            print_report(report, None)
