"""A group of commands whose first argument may also be a run."""

from __future__ import annotations

import difflib

import click

from harvest_assets.errors import HarvestError
from harvest_assets.wandb_client.run_name import parse_run

_HELP = "help"


class CommandOrRun(click.Group):
    """A group that harvests where its first argument is a run instead of a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read `help [COMMAND]` as `[COMMAND] --help`, and `RUN ...` as `harvest RUN ...`.

        Raises:
            click.UsageError: the first argument is a misspelled command.
        """
        if args and args[0] == _HELP:
            args = [*args[1:2], "--help"]
        if args and not self._is_ours(ctx, args[0]):
            self._check_spelling(ctx, args[0])
            args = ["harvest", *args]
        return super().parse_args(ctx, args)

    def _is_ours(self, ctx: click.Context, word: str) -> bool:
        return word in self.commands or word in (*ctx.help_option_names, "--version")

    def _check_spelling(self, ctx: click.Context, word: str) -> None:
        if word.startswith("-") or "/" in word or _is_run(word):
            return
        close = difflib.get_close_matches(word.lower(), [*self.commands, _HELP])
        if close:
            names = " or ".join(map(repr, close))
            msg = f"{word!r} is neither a command nor a run. Did you mean {names}?"
            raise click.UsageError(msg, ctx)


def _is_run(word: str) -> bool:
    try:
        parse_run(word)
    except HarvestError:
        return False
    return True
