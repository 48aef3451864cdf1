"""Numbers and switches that a deployment sets in the environment."""

from __future__ import annotations

import os

from harvest_assets.errors import HarvestError

_ON, _OFF = ("1", "true", "yes"), ("", "0", "false", "no")


def number_from(variable: str, default: int, minimum: int = 1) -> int:
    """A whole number of the environment.

    Raises:
        HarvestError: it is not a number, or below `minimum`.
    """
    text = os.environ.get(variable, "").strip()
    try:
        number = int(text) if text else default
    except ValueError:
        number = minimum - 1
    if number < minimum:
        raise HarvestError(
            f"{variable} is {text!r}; it must be a whole number of at least {minimum}."
        )
    return number


def yes_or_no(variable: str) -> bool:
    """A switch of the environment; off where it is not set.

    Raises:
        HarvestError: it is neither on nor off.
    """
    text = os.environ.get(variable, "").strip().lower()
    if text not in (*_ON, *_OFF):
        raise HarvestError(f"{variable} is {text!r}; it must be 1 or 0.")
    return text in _ON
