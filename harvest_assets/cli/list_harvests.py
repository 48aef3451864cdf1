"""`harvest-assets list`: all harvests of this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from harvest_assets.cli.common_options import debug_option, json_option
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.invocation import current

_WIDTH_OF_FILES = 400

if TYPE_CHECKING:
    from harvest_assets.store.summary import HarvestSummary


@click.command("list")
@json_option
@debug_option
def list_harvests(*, debug: bool) -> None:
    """List the harvests in $SPD_OUT_DIR/harvest: run, condition, progress, size.

    `harvest-assets status HARVEST` shows one of them in detail.
    """
    with errors_reported(debug=debug):
        from harvest_assets.files.layout import harvest_root
        from harvest_assets.store.summary import summaries

        found = summaries()
        current().result = [asdict(it) for it in found]
        if found:
            _print_table(found)
        else:
            click.echo(f"There are no harvests in {harvest_root()}; harvest-assets demo makes one.")


def _print_table(found: list[HarvestSummary]) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("harvest", "run", "condition"):
        table.add_column(heading, overflow="fold")
    for heading in ("components", "tokens", "size", "modified (UTC)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for it in found:
        table.add_row(
            it.name,
            it.key or "not known",
            it.condition.value,
            "" if it.n_components is None else f"{it.n_components:,}",
            share_of(it),
            decimal(it.n_bytes),
            it.modified[:16].replace("T", " "),
        )
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a file has no width, and names are searched for in it
        console.width = _WIDTH_OF_FILES
    console.print(table)
    for it in found:
        if it.problem:
            click.echo(f"{it.name}: {it.problem}", err=True)


def share_of(it: HarvestSummary) -> str:
    """Tokens saved, and of how many where they are not all."""
    if it.tokens is None:
        return ""
    done = f"{it.tokens:,}"
    return done if it.tokens == it.tokens_wanted else f"{done} of {it.tokens_wanted:,}"
