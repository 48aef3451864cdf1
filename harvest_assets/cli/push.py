"""`harvest-assets push RUN ADDRESS`: share a finished harvest."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import gettempdir

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
from harvest_assets.errors import HarvestError


@click.command(
    help=f"""Share a finished harvest through the Hugging Face hub or W&B.

\b
  harvest-assets push s-d2ec3bfe hf://datasets/OWNER/NAME            a dataset
  harvest-assets push s-d2ec3bfe hf://datasets/OWNER/NAME@BRANCH
  harvest-assets push s-d2ec3bfe wandb://ENTITY/PROJECT/NAME         an artifact
  harvest-assets push s-d2ec3bfe hf://... --layers 'h.3.mlp.*'       some layers

What does not exist is created. A dataset gets a card that describes it; its license is yours to
choose. It holds one harvest for each branch: an equal one is left as it is, and a different one is
never overwritten. On W&B, a different harvest becomes the next version of the artifact. An
interrupted push is continued by the same command.

With --layers, these are first copied to a folder below TMPDIR.

The token is the client's: `hf auth login` or HF_TOKEN; `wandb login` or WANDB_API_KEY.

{RUN_OR_HARVEST_HELP}
""",
)
@click.argument("run", shell_complete=complete_harvest)
@click.argument("address")
@click.option("--private", is_flag=True, help="Make a dataset that is created private.")
@some_layers_option
@json_option
@debug_option
def push(run: str, address: str, layers: tuple[str, ...], *, private: bool, debug: bool) -> None:
    """Share a finished harvest."""
    with errors_reported(debug=debug), ExitStack() as stack:
        from harvest_assets.sharing.address import HubDataset, parse_address

        target = parse_address(address)
        if private and not isinstance(target, HubDataset):
            raise HarvestError("--private is for datasets on the hub; W&B decides by the project.")
        paths = harvest_to_read(run)

        from harvest_assets.cli.transfer_bar import transfer_bar
        from harvest_assets.sharing import hub, wandb_artifact
        from harvest_assets.sharing.contents import contents_of
        from harvest_assets.sharing.some_layers import chosen_layers, some_layers

        with transfer_bar() as watch:
            part = stack.enter_context(some_layers(paths, layers, watch, Path(gettempdir())))
            contents = contents_of(part, watch)
        chosen = chosen_layers(part, layers)
        if isinstance(target, HubDataset):
            sent = hub.push(part, contents, target, private=private)
        else:
            sent = wandb_artifact.push(part, contents, target)
        current().result = {
            "harvest": paths.root.name,
            "layers": chosen,
            "address": str(target),
            "was_there": not sent,
        }
        equal = "" if sent else " already, with equal files"
        click.echo(f"{target} holds {what_was_sent(paths.root.name, chosen)}{equal}.")
        click.echo(f"On another machine:\n  harvest-assets pull {target}")
