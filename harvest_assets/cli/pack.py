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
from harvest_assets.cli.harvest_choice import harvest_to_read
from harvest_assets.cli.invocation import current
from harvest_assets.cli.options import some_layers_option
from harvest_assets.cli.received import what_was_sent


@click.command(
    help=f"""Write a finished harvest into one file, to be sent and unpacked elsewhere.

\b
  harvest-assets pack s-d2ec3bfe                          s-d2ec3bfe.tar.zst, in this folder
  harvest-assets pack s-d2ec3bfe --layers 'h.3.mlp.*'     s-d2ec3bfe-layers.tar.zst
  harvest-assets unpack s-d2ec3bfe.tar.zst                on another machine

The file holds the results with their digests, the plan and the tokenizer: what `view`, `verify` and
the loaders need. States are left out, so a harvest that was unpacked is read but not extended.
FILE is never overwritten.

{RUN_OR_HARVEST_HELP}
""",
)
@click.argument("run", shell_complete=complete_harvest)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@some_layers_option
@json_option
@debug_option
def pack(run: str, file: Path | None, layers: tuple[str, ...], *, debug: bool) -> None:
    """Write a finished harvest into one file."""
    with errors_reported(debug=debug):
        paths = harvest_to_read(run)

        from rich.filesize import decimal

        from harvest_assets.cli.transfer_bar import transfer_bar
        from harvest_assets.sharing import archive
        from harvest_assets.sharing.some_layers import chosen_layers, some_layers

        file = file or Path(f"{paths.root.name}{'-layers' if layers else ''}{archive.SUFFIX}")
        with transfer_bar() as watch, some_layers(paths, layers, watch, file.parent) as part:
            archive.pack(part, file, watch)
            chosen = chosen_layers(part, layers)
        name, n_bytes = paths.root.name, file.stat().st_size
        current().result = {
            "harvest": name,
            "layers": chosen,
            "file": str(file),
            "n_bytes": n_bytes,
        }
        click.echo(f"{file} holds {what_was_sent(name, chosen)} ({decimal(n_bytes)}).")
