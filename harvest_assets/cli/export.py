"""`harvest-assets export RUN FOLDER`: a finished harvest in a form that other programs read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
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
from harvest_assets.errors import counted

if TYPE_CHECKING:
    from harvest_assets.files.layout import HarvestLayout


@click.command(
    short_help="Write a finished harvest for other programs.",
    help=f"""Write a finished harvest into FOLDER in a form that other programs read.

\b
  harvest-db    FOLDER/h-YYYYMMDD_HHMMSS/ of SPD's newer code: harvest.db (SQLite, with the scores
                of components), component_correlations.pt, token_stats.pt; of SPD runs only
  delphi        FOLDER/latents/ of delphi: every firing with its activation, and the rows of tokens;
                of harvests with --keep-firings
  neuronpedia   FOLDER/neuronpedia-YYYYMMDD_HHMMSS/<layer>/batch-<n>.json, as SAEDashboard writes
                them: what Neuronpedia's dashboards are made from

It appears complete or not at all, and nothing is overwritten.

{RUN_OR_HARVEST_HELP}
""",
)
@click.argument("run", shell_complete=complete_harvest)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--format",
    "name",
    type=click.Choice(("harvest-db", "delphi", "neuronpedia")),
    required=True,
    help="The form that is written.",
)
@json_option
@debug_option
def export(run: str, folder: Path, name: str, *, debug: bool) -> None:
    """Write a finished harvest in a form that other programs read."""
    with errors_reported(debug=debug):
        paths = harvest_to_read(run)
        write = {"harvest-db": _harvest_db, "delphi": _delphi, "neuronpedia": _neuronpedia}[name]
        written = write(paths, folder)
        current().result = {
            "harvest": paths.root.name,
            "path": str(written.folder),
            "format": name,
            **written.counts,
            "n_bytes": written.n_bytes,
        }

        from rich.filesize import decimal

        content = " and ".join(counted(n, noun[:-1]) for noun, n in written.counts.items())
        size = decimal(written.n_bytes)
        click.echo(f"{written.folder} holds {content} of {paths.root.name} ({size}).")


@dataclass(frozen=True)
class _Written:
    """A folder that was written.

    Args:
        folder: its path.
        counts: what is in it, by its name in the plural.
        n_bytes: of all files.
    """

    folder: Path
    counts: dict[str, int]
    n_bytes: int


def _harvest_db(paths: HarvestLayout, folder: Path) -> _Written:
    from harvest_assets.cli.transfer_bar import transfer_bar
    from harvest_assets.interpretations.exchange.autointerp_db import score_rows
    from harvest_assets.interpretations.storage import Interpretations
    from harvest_assets.sharing import harvest_db

    history = Interpretations(paths).history()
    for problem in history.problems:
        click.echo(f"warning: {problem}", err=True)
    with transfer_bar() as watch:
        written = harvest_db.export(paths, folder, score_rows(history), watch)
    if not written.has_correlations:
        click.echo("warning: co-firings were not counted, so their file is left out.", err=True)
    counts = {"components": written.n_components, "scores": written.n_scores}
    return _Written(written.folder, counts, written.n_bytes)


def _delphi(paths: HarvestLayout, folder: Path) -> _Written:
    from harvest_assets.cli.transfer_bar import transfer_bar
    from harvest_assets.sharing import delphi_cache

    with transfer_bar() as watch:
        written = delphi_cache.export(paths, folder, watch)
    if not written.has_tokens:
        click.echo(
            "warning: the rows of tokens are not on this machine and were left out; delphi needs "
            "them as well.",
            err=True,
        )
    counts = {"components": written.n_components, "firings": written.n_firings}
    return _Written(written.folder, counts, written.n_bytes)


def _neuronpedia(paths: HarvestLayout, folder: Path) -> _Written:
    from harvest_assets.cli.transfer_bar import transfer_bar
    from harvest_assets.sharing import neuronpedia

    with transfer_bar() as watch:
        written = neuronpedia.export(paths, folder, watch)
    counts = {"components": written.n_components, "layers": written.n_layers}
    return _Written(written.folder, counts, written.n_bytes)
