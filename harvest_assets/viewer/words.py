"""What pages call the values of a component, by the kind of decomposition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Words:
    """Names of the two values of a component.

    Args:
        long: of the firing strength.
        short: the same, where there is little room.
        second: of the second value; None if there is none.
    """

    long: str
    short: str
    second: str | None

    def value(self, shade: str) -> str | None:
        """The name of the value that shades tokens, the firing strength for `ci`."""
        return self.long if shade == "ci" else self.second

    @property
    def title(self) -> str:
        """The firing strength at the beginning of a sentence."""
        return self.long[0].upper() + self.long[1:]


SPD = Words("causal importance", "CI", "activation")
_NAMED_BY_ITSELF = "own_model"
_MAX_LENGTH = 60  # characters
_KINDS = {"dictionaries": Words("activation", "activation", None)}


def words_of(config: Mapping[str, Any]) -> Words:
    """The words for a harvest, by its `config.json`; those of SPD where it names no known kind."""
    if config.get("kind") == _NAMED_BY_ITSELF:
        strength, second = (config.get(name) for name in ("firing_strength", "second_value"))
        name = str(strength)[:_MAX_LENGTH]
        return Words(name, name, None if second is None else str(second)[:_MAX_LENGTH])
    return _KINDS.get(str(config.get("kind")), SPD)
