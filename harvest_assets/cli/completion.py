"""`harvest-assets completion SHELL`: what a shell needs to complete the commands."""

from __future__ import annotations

import click

from harvest_assets.cli.common_options import debug_option
from harvest_assets.cli.errors import errors_reported

_PROGRAMS = ("harvest-assets", "spd-harvest")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@debug_option
def completion(shell: str, *, debug: bool) -> None:
    """Print what a shell needs to complete commands, options and names of harvests.

    \b
      eval "$(harvest-assets completion bash)"      in ~/.bashrc
      eval "$(harvest-assets completion zsh)"       in ~/.zshrc, after compinit
      harvest-assets completion fish | source       in ~/.config/fish/config.fish
    """
    with errors_reported(debug=debug):
        from click.shell_completion import get_completion_class

        kind = get_completion_class(shell)
        assert kind is not None  # noqa: S101
        for program in _PROGRAMS:
            variable = f"_{program}_COMPLETE".replace("-", "_").upper()
            click.echo(kind(click.Command(program), {}, program, variable).source())
