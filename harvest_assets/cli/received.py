"""What is printed at the end of a command that sent or received a harvest."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from harvest_assets.cli.harvest_choice import say_which
from harvest_assets.cli.invocation import current

if TYPE_CHECKING:
    from harvest_assets.sharing.receive import Received


def what_was_sent(name: str, layers: Sequence[str] | None) -> str:
    """The harvest, or which of its layers; None is all."""
    return name if layers is None else f"{', '.join(layers)} of {name}"


def print_received(received: Received) -> None:
    """Print where the harvest is and how to view it."""
    say_which(received.paths)
    root = received.paths.root
    current().result = {
        "harvest": root.name,
        "path": str(root),
        "was_there": received.was_there,
    }
    if received.was_there:
        click.echo(f"{root} is there already, with equal files.")
    else:
        click.echo(f"{root} is complete.")
    click.echo(f"View it in a browser:\n  harvest-assets view {shlex.quote(root.name)}")
