"""`harvest-assets weights RUN KEY`: what the weights of a component say."""

from __future__ import annotations

import click

from harvest_assets.cli.common_options import (
    RUN_OR_HARVEST_HELP,
    complete_harvest,
    debug_option,
    json_option,
)
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.harvest_choice import harvest_to_read
from harvest_assets.cli.invocation import current
from harvest_assets.cli.options import device_option


@click.command(
    short_help="Show what the weights of a component say.",
    help=f"""Show what the weights of the component KEY of an SPD run say, without data.

Listed are the tokens whose embedding its input direction answers to most, the tokens that its
output direction promotes (approximate), and the components with the most similar weights.

{RUN_OR_HARVEST_HELP}
""",
)
@click.argument("run", shell_complete=complete_harvest)
@click.argument("key")
@click.option(
    "--top",
    type=click.IntRange(1, 1000),
    default=10,
    show_default=True,
    help="Length of each list.",
)
@device_option
@json_option
@debug_option
def weights(run: str, key: str, top: int, *, debug: bool) -> None:
    """Show what the weights of a component say."""
    with errors_reported(debug=debug):
        from rich.console import Console

        from harvest_assets.live.opened_run import OpenedRun
        from harvest_assets.live.weights import WeightsQuestion, answer_weights
        from harvest_assets.printed.asked import print_weights
        from harvest_assets.viewer.answering import with_tokens
        from harvest_assets.viewer.library import Library

        paths = harvest_to_read(run)
        answer = answer_weights(OpenedRun(paths), WeightsQuestion(component=key, top=top))
        harvest = Library().get(paths.root.name)
        current().result = with_tokens(harvest, answer)
        console = Console(highlight=False, markup=False, soft_wrap=True)
        print_weights(answer, harvest.vocabulary, console)
