"""`harvest-assets pack RUN [FILE]`: a finished harvest as one file."""

from __future__ import annotations

from pathlib import Path

import click

from harvest_assets.cli.common_options import (
    RUN_OR_HARVEST_HELP,
    complete_harvest,
    debug_option,
    json_option,
)
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.invocation import current


@click.command(
    help=f"""Write a finished harvest into one file, to be sent and unpacked elsewhere.

\b
  harvest-assets pack s-d2ec3bfe                  s-d2ec3bfe.tar.zst, in this folder
  harvest-assets unpack s-d2ec3bfe.tar.zst        on another machine

The file holds the results with their digests, the plan and the tokenizer: what `view`, `verify` and
the loaders need. States are left out, so a harvest that was unpacked is read but not extended.
FILE is never overwritten.

{RUN_OR_HARVEST_HELP}
""",
)
@click.argument("run", shell_complete=complete_harvest)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@json_option
@debug_option
def pack(run: str, file: Path | None, *, debug: bool) -> None:
    """Write a finished harvest into one file."""
    with errors_reported(debug=debug):
        from harvest_assets.store.lookup import find_harvest

        paths = find_harvest(run)

        from rich.filesize import decimal

        from harvest_assets.cli.transfer_bar import transfer_bar
        from harvest_assets.sharing import archive

        file = file or Path(paths.root.name + archive.SUFFIX)
        with transfer_bar() as watch:
            archive.pack(paths, file, watch)
        n_bytes = file.stat().st_size
        current().result = {"harvest": paths.root.name, "file": str(file), "n_bytes": n_bytes}
        click.echo(f"{file} holds {paths.root.name} ({decimal(n_bytes)}).")
