"""`harvest-assets pull ADDRESS`: a harvest that others shared, put where commands find it."""

from __future__ import annotations

import click

from harvest_assets.cli.common_options import debug_option, json_option
from harvest_assets.cli.errors import errors_reported
from harvest_assets.cli.options import received_name_option, some_layers_option
from harvest_assets.cli.received import print_received


@click.command()
@click.argument("address")
@received_name_option
@some_layers_option
@json_option
@debug_option
def pull(address: str, out_name: str | None, layers: tuple[str, ...], *, debug: bool) -> None:
    """Download a harvest that others shared into $SPD_OUT_DIR/harvest.

    \b
      harvest-assets pull hf://datasets/OWNER/NAME
      harvest-assets pull hf://datasets/OWNER/NAME@REVISION     a branch, a tag or a commit
      harvest-assets pull wandb://ENTITY/PROJECT/NAME           an artifact on W&B
      harvest-assets pull wandb://ENTITY/PROJECT/NAME:v3

    Its files are checked against their digests and appear together or not at all; an interrupted
    download is continued by the same command. A harvest of the same name that is there already is
    compared and never changed. Nothing in the files is executed. With --layers the whole harvest is
    downloaded, and only those layers are kept.
    """
    with errors_reported(debug=debug):
        from harvest_assets.sharing.address import HubDataset, parse_address

        source = parse_address(address)

        from harvest_assets.cli.transfer_bar import transfer_bar
        from harvest_assets.sharing import hub, wandb_artifact

        with transfer_bar() as watch:
            if isinstance(source, HubDataset):
                received = hub.pull(source, out_name, watch, layers)
            else:
                received = wandb_artifact.pull(source, out_name, watch, layers)
        print_received(received)
