"""Harvest what the components of a decomposed language model do, as a Dagster asset graph."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harvest_assets.notebook.in_memory import harvest as harvest
    from harvest_assets.notebook.opening import open as open  # noqa: A004

__version__ = "0.1.0"

# Imported when first used: most of what imports this package needs neither.
_LAZY = {
    "harvest": "harvest_assets.notebook.in_memory",
    "open": "harvest_assets.notebook.opening",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_LAZY]
