"""Errors that say what was probably meant."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from operator import index
from typing import TypeVar

from harvest_assets.errors import HarvestError

T = TypeVar("T", bound=str)

_MAX_LISTED = 10
_MAX_CLOSE = 3
_MAX_QUOTED = 100  # characters


def close_matches(wanted: str, known: Sequence[str]) -> list[str]:
    """The names that a text is part of, else those that it may be a misspelling of."""
    parts = [name for name in known if wanted and wanted in name]
    return parts[:_MAX_CLOSE] or get_close_matches(wanted[:_MAX_QUOTED], known, _MAX_CLOSE)


def did_you_mean(names: Sequence[str]) -> str:
    """A sentence that suggests names, empty if there are none."""
    return f" Did you mean {' or '.join(names)}?" if names else ""


def key_hint(wanted: str, keys: Sequence[str]) -> str:
    """A sentence about the keys of components that one which none has may be a mistake for."""
    layer, _, index = wanted.rpartition(":")
    layers = list(dict.fromkeys(map(_layer, keys)))
    if layer in layers:
        here = [key for key in keys if _layer(key) == layer]
        return f" Of {layer} there are {len(here):,}, from {here[0]} to {here[-1]}."
    close = [f"{name}:{index}" for name in close_matches(layer or wanted, layers)]
    known = frozenset(keys)
    meant = did_you_mean([key for key in close if key in known])
    return meant or f" Layers are {listed(layers)}."


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, as many as fit."""
    more = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def quoted(text: object) -> str:
    """A value for a sentence, not too long."""
    return repr(text)[:_MAX_QUOTED]


def one_of(name: str, value: T, known: Sequence[T]) -> T:
    """An argument that must be one of several texts.

    Raises:
        HarvestError: it is another.
    """
    if value not in known:
        raise HarvestError(
            f"{name} is {quoted(value)}; expected one of {', '.join(known)}."
            f"{did_you_mean(close_matches(str(value), known))}"
        )
    return value


def at_least(low: int, name: str, value: int) -> int:
    """An argument that must be a whole number from a bound on.

    Raises:
        HarvestError: it is another.
    """
    try:
        if index(value) >= low:
            return value
    except TypeError:
        pass
    raise HarvestError(f"{name} is {quoted(value)}; expected a whole number from {low}.")


def _layer(key: str) -> str:
    return key.rpartition(":")[0]
