"""Help and options that all commands share; loads nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from harvest_assets.cli import invocation

F = TypeVar("F", bound=Callable[..., Any])

EXIT_STATUSES = """\b
Exit status: 0 done; 1 failed or refused, with a sentence that begins "Error:"; 2 wrong usage,
nothing was begun; 130, 143 or 129 interrupted by Ctrl-C, SIGTERM or a closed terminal.
"""
_QUIET_HELP = "Print nothing but errors, and with --json the result."
_VERBOSE_HELP = "Print what is logged too; of a harvest, the log of each stage."


def either_spelling(name: str) -> str:
    """Read `--n_batches` as `--n-batches`."""
    return name.replace("_", "-")


# Of a program; its commands inherit them.
CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
    "token_normalize_func": either_spelling,
}

RUN_HELP = """
RUN is any name of an SPD run, or a path to its folder or checkpoint:

\b
  goodfire/spd/s-d2ec3bfe
  goodfire/spd/runs/s-d2ec3bfe
  wandb:goodfire/spd/runs/s-d2ec3bfe
  https://wandb.ai/goodfire/spd/runs/s-d2ec3bfe
  ./runs/my-run            (it contains final_config.yaml and model_<step>.pth)
  my_module:decomposition  (your own model, in my_module.py)

\b
@NAME at its end is a further harvest of the run, beside the first:

\b
  goodfire/spd/s-d2ec3bfe@dense
"""

RUN_OR_HARVEST_HELP = f"""{RUN_HELP}
or the folder of a harvest, which is also how to name the first of several:

\b
  x-1a2b3c4d               (a folder of $SPD_OUT_DIR/harvest, or its path)
"""


def complete_harvest(
    _context: click.Context, _argument: click.Parameter, incomplete: str
) -> list[str]:
    """The names of harvests that begin so, for the shell."""
    from harvest_assets.files.layout import harvest_root

    try:
        names = [it.name for it in harvest_root().iterdir() if it.is_dir()]
    except OSError:
        return []
    return sorted(name for name in names if name.startswith(incomplete) and name[0] != ".")


def debug_option(command: F) -> F:
    """Add --debug."""
    return click.option("--debug", is_flag=True, help="Show the traceback of an error.")(command)


def json_option(command: F) -> F:
    """Add --json: the command stores what it prints in `invocation.current().result`."""
    return click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_note,
        help="Print the result as one JSON value, for scripts, instead of text.",
    )(command)


def with_common_options(command: click.Command) -> click.Command:
    """Add the options of every command, unless it has them; of a group, to its commands."""
    if isinstance(command, click.Group):
        for each in command.commands.values():
            with_common_options(each)
    elif "quiet" not in {parameter.name for parameter in command.params}:
        command.params += [_flag("--quiet", _QUIET_HELP), _flag("--verbose", _VERBOSE_HELP)]
        command.epilog = command.epilog or EXIT_STATUSES
    return command


def _note(_context: click.Context, option: click.Parameter, value: Any) -> None:
    if value and option.name:
        invoked = invocation.current()
        setattr(invoked, option.name, value)
        if invoked.quiet and invoked.verbose:
            raise click.UsageError("--quiet and --verbose contradict each other.")


def _flag(name: str, text: str) -> click.Option:
    return click.Option([name], is_flag=True, expose_value=False, callback=_note, help=text)
