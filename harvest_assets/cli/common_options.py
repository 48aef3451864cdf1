"""Help and options that all commands share; loads nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

HELP_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}

RUN_HELP = """
RUN is any name of an SPD run, or a path to its folder or checkpoint:

\b
  goodfire/spd/s-d2ec3bfe
  goodfire/spd/runs/s-d2ec3bfe
  wandb:goodfire/spd/runs/s-d2ec3bfe
  https://wandb.ai/goodfire/spd/runs/s-d2ec3bfe
  ./runs/my-run            (it contains final_config.yaml and model_<step>.pth)

\b
@NAME at its end is a further harvest of the run, beside the first:

\b
  goodfire/spd/s-d2ec3bfe@dense
"""

RUN_OR_HARVEST_HELP = f"""{RUN_HELP}
or the folder of a harvest, which is also how to name the first of several:

\b
  x-1a2b3c4d               (a folder of $SPD_OUT_DIR/harvest)
"""


def debug_option(command: F) -> F:
    """Add --debug."""
    return click.option("--debug", is_flag=True, help="Show the traceback of an error.")(command)


def json_option(command: F) -> F:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)
