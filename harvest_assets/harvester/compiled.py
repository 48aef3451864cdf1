"""Functions compiled by Numba, kept on disk between processes where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Decorator: compile a function with Numba; it runs without the GIL.

    Machine code is cached in `NUMBA_CACHE_DIR`, beside the source or in the user's cache folder.
    Where none of them is writable, each process compiles again, which takes seconds. No other
    folder is used: the cache is pickled code, which must not come from where other users can write.
    """
    dispatcher = numba.njit(nogil=True)(function)
    if dispatcher is function:  # with `NUMBA_DISABLE_JIT=1`
        return function
    with suppress(RuntimeError):
        dispatcher.enable_caching()
    return cast(F, dispatcher)
