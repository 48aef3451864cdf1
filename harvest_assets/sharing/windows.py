"""Which token of a window without padding the firing is on.

A window has up to `per_side` tokens on each side of a firing, fewer at the ends of its row, and
does not say which token the firing is on. Its number of tokens leaves few places:

1. A window of full width has its firing in the middle.
2. A shorter one was cut at the start of its row, and has `per_side` tokens after the firing, or at
   the end, and has as many before it. In rows shorter than a full window it may be cut at both.
3. The component fires at the place, which rules out those at which it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from harvest_assets.errors import counted


def centers(firings: Sequence[bool], per_side: int, row_length: int | None) -> list[int]:
    """The places of a window that its firing may be at, rising.

    Args:
        firings: at which places the component fires.
        per_side: tokens on each side of the firing.
        row_length: tokens of a row; None where not known: then rows are taken to be longer than a
            full window.

    Raises:
        ValueError: there are none.
    """
    found = [place for place in _places(len(firings), per_side, row_length) if firings[place]]
    if not found:
        raise ValueError(
            f"none of its {counted(len(firings), 'token')} can be the middle of a window with "
            f"{per_side} on each side that fires there"
        )
    return found


@lru_cache(maxsize=1 << 12)
def _places(n: int, per_side: int, row_length: int | None) -> tuple[int, ...]:
    """Where the middle is in windows of n tokens, at each position of a row."""
    length = 4 * per_side + 2 if row_length is None else row_length
    near_start = range(min(length, per_side + 1))
    near_end = range(max(0, length - per_side - 1), length)
    return tuple(
        sorted(
            {
                min(position, per_side)
                for position in (*near_start, *near_end)
                if min(length - 1, position + per_side) - max(0, position - per_side) + 1 == n
            }
        )
    )
