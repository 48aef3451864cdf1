"""Options of the commands that harvest: one for each setting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import click

from harvest_assets.cli.common_options import either_spelling
from harvest_assets.cli.invocation import current
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import is_folder_name
from harvest_assets.settings import (
    ALL_ROWS,
    ComputeSettings,
    HarvestSettings,
    Option,
    PreflightSettings,
    StorageSettings,
    deployment_options,
)

F = TypeVar("F", bound=Callable[..., Any])
_ALL_FIRINGS = ("--keep-firings", str(ALL_ROWS))
Settings = dict[str, float | tuple[str, ...] | None]


def out_name_option(command: F) -> F:
    """Add --out-name."""
    return click.option(
        "--out-name",
        help="Folder below harvest/; another than that of the run's first harvest makes a further "
        "harvest of this name.",
    )(command)


def received_name_option(command: F) -> F:
    """Add --out-name for a harvest that is received."""
    return click.option(
        "--out-name",
        callback=_checked_name,
        help="Folder below harvest/; omitted: the one that the harvest had.",
    )(command)


def some_layers_option(command: F) -> F:
    """Add --layers for a harvest that is sent or received."""
    return click.option(
        "--layers",
        multiple=True,
        metavar="PATTERN",
        help="Only the layers whose names match this pattern (`*` matches dots too), or one of "
        "several; omitted: all.",
    )(command)


def _checked_name(
    _context: click.Context, _option: click.Parameter, name: str | None
) -> str | None:
    if name is not None and not is_folder_name(name):
        raise click.BadParameter(f"{name[:200]!r} is not the plain name of a folder.")
    return name


def device_option(command: F) -> F:
    """Add --device."""
    return click.option(
        "--device",
        expose_value=False,
        callback=_checked_device,
        metavar="cpu|cuda|cuda:N",
        help="What to compute on; omitted: HARVEST_DEVICE, else a free GPU, else the CPU.",
    )(command)


def _checked_device(_context: click.Context, _option: click.Parameter, name: str | None) -> None:
    if name is not None:
        try:
            current().device = ComputeSettings(device=name).device
        except HarvestError:
            raise click.BadParameter(
                f"{name[:200]!r} is not a device; expected cpu, cuda or cuda:N."
            ) from None


class HarvestingCommand(click.Command):
    """A command with `harvest_options`, where -1 means all firings as in other settings."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read `--keep-firings -1` as `all`: click would take `-1` for another option."""
        read: list[str] = []
        for word in args:
            name, equals, value = either_spelling(word).partition("=")
            if equals and (name, value) == _ALL_FIRINGS:
                read.append(f"{name}=all")
            elif read and (either_spelling(read[-1]), word) == _ALL_FIRINGS:
                read.append("all")
            else:
                read.append(word)
        return super().parse_args(ctx, read)


def harvest_options(command: F) -> F:
    """Add the options of every harvest: the settings, --step, --out-name and --device."""
    step_option = click.option(
        "--step",
        type=click.IntRange(min=0),
        help="Training step of the checkpoint; omitted: the newest.",
    )
    return _settings_options(step_option(out_name_option(device_option(command))))


def _settings_options(command: F) -> F:
    """Add an option for every setting of a harvest, with its default in the help."""
    return add_options(command, deployment_options())


class _NumberOrAll(click.types.IntParamType):
    """The number after an option that may be given without one, which `all` means too.

    Args:
        every: what `all` means.
    """

    def __init__(self, every: int) -> None:
        self._every = every

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        return self._every if value == "all" else super().convert(value, param, ctx)

    def fail(
        self, message: str, param: click.Parameter | None = None, ctx: click.Context | None = None
    ) -> NoReturn:
        """Report what was taken for the number."""
        super().fail(
            f"{message.rstrip('.')}; expected a number or `all`. Without either, put the option at "
            "the end of the command.",
            param,
            ctx,
        )


def add_options(command: F, settings: Iterable[Option]) -> F:
    """Add an option for each setting, with its default in the help."""
    for setting in reversed(list(settings)):
        option, kind = f"--{setting.name.replace('_', '-')}", setting.kind
        if kind is bool:
            option = f"{option}/--no-{option.removeprefix('--')}"
        default = "" if setting.default is None else f"  [default: {setting.default}]"
        several = kind is tuple
        alone: dict[str, Any] = {}
        if setting.alone is not None:
            alone = {"is_flag": False, "flag_value": setting.alone, "metavar": "[NUMBER|all]"}
            kind = _NumberOrAll(setting.alone)
        add = click.option(
            option,
            setting.name,
            type=str if several else None if kind is bool else kind,
            multiple=several,
            default=None,
            help=f"{setting.description}{default}",
            **{"metavar": "PATTERN" if several else None, **alone},
        )
        command = add(command)
    return command


def complete_settings(given: Mapping[str, float | tuple[str, ...] | None]) -> Settings:
    """The settings of a harvest: those that were given, and the deployment's defaults.

    Raises:
        HarvestError: a value, or a variable of the environment, is not valid.
    """
    for model in (ComputeSettings, PreflightSettings, StorageSettings):
        model.from_environment()
    chosen = {name: value for name, value in given.items() if value not in (None, ())}
    return HarvestSettings.over_defaults(chosen).model_dump()


def require_one_run(runs: Sequence[str], out_name: str | None, action: str) -> None:
    """Check that --out-name is given for one run only.

    Raises:
        HarvestError: it is given for several.
    """
    if out_name and len(runs) > 1:
        raise HarvestError(
            f"--out_name names the folder of one run; {action} the others by themselves."
        )
