"""`harvest-assets prompt RUN TEXT`: which components fire on a text, and what is predicted."""

from __future__ import annotations

import sys

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
    short_help="Show which components fire on a text of yours.",
    help=f"""Show which components fire on TEXT, and which tokens the model predicts next.

TEXT is tokenized as the rows of the harvest were; `-` reads it from stdin. For each token the
strongest components are listed, with the percentile of their strength among their harvested
firings.

{RUN_OR_HARVEST_HELP}
""",
)
@click.argument("run", shell_complete=complete_harvest)
@click.argument("text", required=False)
@click.option("--ids", metavar="LIST", help="Token ids instead of TEXT: '12 7 300'.")
@click.option("--component", metavar="KEY", help="Show the values of this one at every token.")
@click.option("--at", type=int, help="List this token alone, from 0; -1 is the last.")
@click.option(
    "--top", type=click.IntRange(1, 1000), default=5, show_default=True, help="Components a token."
)
@click.option(
    "--predictions",
    type=click.IntRange(1, 1000),
    default=3,
    show_default=True,
    help="Next tokens listed for each token.",
)
@device_option
@json_option
@debug_option
def prompt(
    run: str,
    text: str | None,
    ids: str | None,
    component: str | None,
    at: int | None,
    top: int,
    predictions: int,
    *,
    debug: bool,
) -> None:
    """Show which components fire on a text."""
    with errors_reported(debug=debug):
        from rich.console import Console

        from harvest_assets.live.opened_run import OpenedRun
        from harvest_assets.live.prompt import PromptQuestion, answer_prompt, whole_numbers
        from harvest_assets.printed.prompt import print_prompt
        from harvest_assets.viewer.library import Library
        from harvest_assets.viewer.prompted import described

        question = PromptQuestion(
            text=read_stdin() if text == "-" else text,
            ids=None if ids is None else whole_numbers(ids),
            component=component,
            at=at,
            top=top,
            predictions=predictions,
        )
        paths = harvest_to_read(run)
        harvest = Library().get(paths.root.name)
        answer = answer_prompt(OpenedRun(paths), question)
        found = described(harvest, answer, component)
        current().result = found.model_dump(mode="json")
        print_prompt(found, Console(highlight=False, markup=False, soft_wrap=True))


def read_stdin() -> str:
    """The text of stdin; a character that is not UTF-8 is refused like one of an argument."""
    return sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
