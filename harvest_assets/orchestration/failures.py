"""Bad input fails an asset at once, with one sentence, and is never retried."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import dagster as dg

from harvest_assets.errors import HarvestError

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def bad_input_is_final() -> Iterator[None]:
    """Turn a `HarvestError` into a Dagster failure that no retry policy repeats."""
    try:
        yield
    except HarvestError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


def refuses_bad_input(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator of an asset's function; see `bad_input_is_final`."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with bad_input_is_final():
            return function(*args, **kwargs)

    return wrapped
