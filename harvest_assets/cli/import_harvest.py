"""`harvest-assets import PATH`: a harvest in the form of SPD's newer code becomes one of ours."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from harvest_assets.cli.common_options import debug_option, json_option
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.harvest_choice import say_which
from harvest_assets.cli.invocation import current
from harvest_assets.cli.options import received_name_option


@click.command(name="import", short_help="Import a harvest.db of SPD's newer code.")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--tokenizer",
    metavar="NAME",
    help="Hub name or path of the run's tokenizer; omitted: as the run's files or harvest here.",
)
@received_name_option
@json_option
@debug_option
def import_harvest(path: Path, tokenizer: str | None, out_name: str | None, *, debug: bool) -> None:
    """Import a harvest of SPD's newer code into $SPD_OUT_DIR/harvest, with its scores.

    PATH is a folder h-YYYYMMDD_HHMMSS, its harvest.db, or a folder of several, of which the last is
    taken. The harvest is named RUN@h-YYYYMMDD_HHMMSS. It is viewed, labelled, scored, verified and
    packed like others, but has no states: it cannot be resumed or extended.
    """
    with errors_reported(debug=debug):
        from harvest_assets.cli.transfer_bar import transfer_bar
        from harvest_assets.interpretations.exchange.transfer import import_file
        from harvest_assets.sharing.harvest_db_import import import_harvest as run_import

        with transfer_bar() as watch:
            imported = run_import(path, tokenizer, out_name, import_file, watch)
        root = imported.paths.root
        say_which(imported.paths)
        current().result = {"harvest": root.name, "path": str(root), "notes": imported.notes}
        for note in imported.notes:
            click.echo(f"note: {note}", err=True)
        click.echo(f"{root} is complete.")
        click.echo(f"View it in a browser:\n  harvest-assets view {shlex.quote(root.name)}")
