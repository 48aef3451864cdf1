"""A group of commands, imported when used, whose first argument may also be a run."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from harvest_assets.cli.common_options import with_common_options
from harvest_assets.errors import HarvestError

_HELP = "help"
# Commands whose name is that of a built-in function or a keyword.
_MODULES = {"list": "list_harvests", "import": "import_harvest"}


class CommandOrRun(click.Group):
    """A group that harvests where its first argument is a run instead of a command.

    Args:
        names: of the commands; `view` is the function `view` in the module `cli/view.py`.
        group: as of `click.Group`.
    """

    def __init__(self, *, names: Sequence[str], **group: Any) -> None:
        super().__init__(**group)
        self._names = sorted(names)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click passes it
        """The names of all commands, for the help."""
        return self._names

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command with this name, imported; None if there is none."""
        if cmd_name not in self._names:
            return None
        name = _MODULES.get(cmd_name, cmd_name)
        command = getattr(import_module(f"harvest_assets.cli.{name}"), name)
        assert isinstance(command, click.Command)  # noqa: S101
        return with_common_options(command)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read `help [COMMAND]` as `[COMMAND] --help`, and `RUN ...` as `harvest RUN ...`.

        Raises:
            click.UsageError: the first argument is a misspelled command.
        """
        if args and args[0] == _HELP:
            args = [*args[1:2], "--help"]
        if args and not self._is_ours(ctx, args[0]):
            if not ctx.resilient_parsing:  # a shell completes a word that is not whole
                self._check_spelling(ctx, args[0])
            args = ["harvest", *args]
        return super().parse_args(ctx, args)

    def _is_ours(self, ctx: click.Context, word: str) -> bool:
        return word in self._names or word in (*ctx.help_option_names, "--version")

    def _check_spelling(self, ctx: click.Context, word: str) -> None:
        if word.startswith("-") or "/" in word or _is_run(word):
            return
        close = difflib.get_close_matches(word.lower(), [*self._names, _HELP])
        if close:
            names = " or ".join(map(repr, close))
            msg = f"{word!r} is neither a command nor a run. Did you mean {names}?"
            raise click.UsageError(msg, ctx)


def _is_run(word: str) -> bool:
    from harvest_assets.store.harvest_name import parse_harvest
    from harvest_assets.store.lookup import folder_named

    try:
        parse_harvest(word)
    except HarvestError:
        return folder_named(word) is not None
    return True
