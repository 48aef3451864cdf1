"""`harvest-assets label RUN`: labels of components by a language model."""

from __future__ import annotations

from typing import Any

import click

from harvest_assets.cli.common_options import (
    RUN_OR_HARVEST_HELP,
    complete_harvest,
    debug_option,
    json_option,
)
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.harvest_choice import harvest_to_read
from harvest_assets.cli.interpretation import interpret, interpretation_options, settings_of


@click.command(
    help=f"""Ask a language model what components mean: a label, a confidence, a reason.

\b
  harvest-assets label RUN --dry-run
  harvest-assets label RUN --endpoint http://localhost:8000/v1 --model NAME

Labels are kept beside the results. What is answered is never asked again: after an interruption the
same command continues.

{RUN_OR_HARVEST_HELP}
""",
)
@click.argument("run", shell_complete=complete_harvest)
@interpretation_options
@json_option
@debug_option
def label(run: str, *, debug: bool, **options: Any) -> None:
    """Ask a language model for labels of components."""
    with errors_reported(debug=debug):
        choice, settings = settings_of(options)
        paths = harvest_to_read(run)

        from harvest_assets.autointerp.task import Task

        interpret(Task(paths, choice, None), settings, options)
