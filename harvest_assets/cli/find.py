"""`harvest-assets find RUN TEXT`: where a text occurs in the contexts that were kept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from harvest_assets.viewer.contexts.page import ContextQuery
    from harvest_assets.viewer.contexts.search import ContextIndex, Found
    from harvest_assets.viewer.harvest import Harvest

_POLL_SECONDS = 0.1


@click.command(
    short_help="Find a text in the contexts that were kept.",
    help=f"""Find where TEXT occurs in the contexts that a harvest kept, and what fires there.

TEXT may extend over several tokens; in double quotes ('" the"') it is one
whole token. Each place is listed once, with the components whose kept contexts include it, then the
components that fire in the most places. The first search indexes the contexts.

{RUN_OR_HARVEST_HELP}
""",
)
@click.argument("run", shell_complete=complete_harvest)
@click.argument("text")
@click.option("--case", is_flag=True, help="Distinguish upper and lower case.")
@click.option(
    "--page", type=click.IntRange(1, (1 << 31) - 1), default=1, help="Of 20 places, from 1."
)
@json_option
@debug_option
def find(run: str, text: str, page: int, *, case: bool, debug: bool) -> None:
    """Find a text in the contexts that were kept."""
    with errors_reported(debug=debug):
        if not text:
            raise click.UsageError("TEXT is empty; give a text to find.")
        from rich.console import Console

        from harvest_assets.printed.found import print_found
        from harvest_assets.viewer.api.models import Contexts
        from harvest_assets.viewer.contexts.page import ContextQuery
        from harvest_assets.viewer.library import Library

        harvest = Library().get(harvest_to_read(run).root.name)
        found, index = _searched(harvest, ContextQuery(text, case, page))
        answer = Contexts.of(found, page)
        current().result = answer.model_dump(mode="json")
        kept = harvest.config.get("activation_examples_per_component")
        if kept and index.per_list < kept:
            click.echo(
                f"Of each list of a component, its first {index.per_list:,} contexts are searched.",
                err=True,
            )
        print_found(answer, Console(highlight=False, markup=False, soft_wrap=True))


def _searched(harvest: Harvest, query: ContextQuery) -> tuple[Found, ContextIndex]:
    """What a search finds, after the contexts have been indexed."""
    from rich.progress import TaskProgressColumn, TimeRemainingColumn

    from harvest_assets.cli.transfer_bar import live_bar
    from harvest_assets.viewer.contexts.page import find
    from harvest_assets.viewer.derived import Derived, Work

    derived = Derived()
    try:
        with live_bar(TaskProgressColumn(), TimeRemainingColumn()) as watch:
            while isinstance(answer := find(derived, harvest, query), Work):
                watch("indexing the contexts", round(100 * answer.share), 100)
                time.sleep(_POLL_SECONDS)
        return answer
    finally:
        derived.close()
