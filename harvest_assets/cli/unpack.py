"""`harvest-assets unpack FILE`: a harvest that `pack` wrote, put where commands find it."""

from __future__ import annotations

from pathlib import Path

import click

from harvest_assets.cli.common_options import debug_option, json_option
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.options import received_name_option, some_layers_option
from harvest_assets.cli.received import print_received


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@received_name_option
@some_layers_option
@json_option
@debug_option
def unpack(file: Path, out_name: str | None, layers: tuple[str, ...], *, debug: bool) -> None:
    """Unpack a harvest that `harvest-assets pack` wrote into $SPD_OUT_DIR/harvest.

    Its files are checked against their digests and appear together or not at all. A harvest of the
    same name that is there already is compared and never changed.
    """
    with errors_reported(debug=debug):
        from harvest_assets.cli.transfer_bar import transfer_bar
        from harvest_assets.sharing import archive

        with transfer_bar() as watch:
            received = archive.unpack(file, out_name, watch, layers)
        print_received(received)
