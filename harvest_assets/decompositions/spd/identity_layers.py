"""Identity layers: put before a module, they let its input be decomposed as if it were a weight."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from harvest_assets.decompositions.spd.decomposed_layers import Identity, matrix_widths
from harvest_assets.decompositions.spd.run_config import PRE_IDENTITY, ModuleInfo
from harvest_assets.errors import HarvestError


def insert_identities(target: nn.Module, identity_module_info: Sequence[ModuleInfo]) -> None:
    """Put `<module>.pre_identity` before each matched module; the target's output stays.

    Args:
        target: changed in place.
        identity_module_info: `fnmatch` patterns over dotted paths; `*` crosses dots.

    Raises:
        HarvestError: a pattern matches nothing, a module is matched twice, or multiplies its input
            by no matrix.
    """
    modules = dict(target.named_modules())
    for info in identity_module_info:
        matches = [path for path in modules if fnmatchcase(path, info.module_pattern)]
        if not matches:
            raise HarvestError(
                f"module_pattern {info.module_pattern!r} of identity_module_info matches no "
                "module of the target model."
            )
        for path in matches:
            _insert(path, modules[path], info.module_pattern)


def _insert(path: str, module: nn.Module, pattern: str) -> None:
    widths = matrix_widths(module)
    if widths is None:
        raise HarvestError(
            f"module_pattern {pattern!r} of identity_module_info matches {path!r} "
            f"({type(module).__name__}); expected a Linear or a Conv1D."
        )
    if hasattr(module, PRE_IDENTITY):
        raise HarvestError(
            f"{path} is matched twice, the second time by module_pattern {pattern!r} of "
            "identity_module_info."
        )
    identity = Identity(widths[0])
    module.add_module(PRE_IDENTITY, identity)

    def through_identity(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (identity(args[0]), *args[1:]), kwargs
        name, given = next(iter(kwargs.items()))
        return args, {**kwargs, name: identity(given)}

    module.register_forward_pre_hook(through_identity, with_kwargs=True)
