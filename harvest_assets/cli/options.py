"""What several commands share: options, and the help of their argument RUN."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from harvest_assets.errors import HarvestError

F = TypeVar("F", bound=Callable[..., Any])
Settings = dict[str, float | None]

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
"""

RUN_OR_HARVEST_HELP = f"""{RUN_HELP}
or, where a run has several harvests, the folder of one of them:

\b
  x-1a2b3c4d               (a folder of $SPD_OUT_DIR/harvest)
"""


def either_spelling(name: str) -> str:
    """Read `--n_batches` as `--n-batches`."""
    return name.replace("_", "-")


def debug_option(command: F) -> F:
    """Add --debug."""
    return click.option("--debug", is_flag=True, help="Show the traceback of an error.")(command)


def out_name_option(command: F) -> F:
    """Add --out-name."""
    return click.option(
        "--out-name", help="Folder below harvest/, if the run id is taken by another run."
    )(command)


def harvest_options(command: F) -> F:
    """Add what every harvest takes: the settings, --step and --out-name."""
    step_option = click.option(
        "--step", type=int, help="Training step of the checkpoint; omitted: the newest."
    )
    return _settings_options(step_option(out_name_option(command)))


def _settings_options(command: F) -> F:
    """Add an option for every field of `HarvestConfig`, its default in the help."""
    try:
        from harvest_assets.store.settings import HarvestConfig
    except HarvestError as error:  # a variable of the environment is not a number
        sys.exit(f"Error: {error}")
    for name, field in reversed(HarvestConfig.model_fields.items()):
        option = f"--{name.replace('_', '-')}"
        default = "" if field.default is None else f"  [default: {field.default}]"
        help_text = f"{field.description}{default}"
        if field.annotation is bool:
            switch = f"{option}/--no-{option.removeprefix('--')}"
            command = click.option(switch, name, default=None, help=help_text)(command)
            continue
        kind = float if field.annotation is float else int
        command = click.option(option, name, type=kind, help=help_text)(command)
    return command


def complete_settings(given: Mapping[str, float | None]) -> Settings:
    """The settings of a harvest: those that were given, and the deployment's defaults."""
    from harvest_assets.store.settings import HarvestConfig

    chosen = {name: value for name, value in given.items() if value is not None}
    return HarvestConfig.model_validate(chosen).model_dump()


def require_one_run(runs: Sequence[str], out_name: str | None, action: str) -> None:
    """Check that --out-name is given for one run only.

    Raises:
        HarvestError: it is given for several.
    """
    if out_name and len(runs) > 1:
        raise HarvestError(
            f"--out_name names the folder of one run; {action} the others by themselves."
        )
