"""Random choices that are the same on every machine and for every version of any library."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

_RANGE = 1 << 64


class Draws:
    """A stream of random choices, decided by what it is seeded with.

    The numbers are the SHA-256 of the seed and a counter, eight bytes at a time.

    Args:
        seed: any texts and numbers.
    """

    def __init__(self, *seed: str | int) -> None:
        self._seed = repr(seed).encode()
        self._drawn = 0

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1, each with the same chance."""
        limit = _RANGE - _RANGE % n
        while (number := self._next()) >= limit:
            pass
        return number % n

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """At most k different items in random order."""
        return list(islice(self.in_turn(items), k))

    def in_turn(self, items: Sequence[T]) -> Iterator[T]:
        """All items in random order, each drawn when it is taken."""
        moved: dict[int, int] = {}  # place: the index of the item that is there
        for place in range(len(items)):
            other = place + self.below(len(items) - place)
            yield items[moved.get(other, other)]
            moved[other] = moved.get(place, place)

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All items in random order."""
        return self.sample(items, len(items))

    def choice(self, items: Sequence[T]) -> T:
        """One item."""
        return items[self.below(len(items))]

    def _next(self) -> int:
        digest = hashlib.sha256(self._seed + self._drawn.to_bytes(8, "big")).digest()
        self._drawn += 1
        return int.from_bytes(digest[:8], "big")
