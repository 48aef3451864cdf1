"""Where the components of one harvest fired, as lists: sums over them are exact integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from harvest_assets.harvester.compiled import compiled

# Two int32 numbers of its component, and one int64 of its position; half as much while joined.
BYTES_PER_FIRING = 20


@dataclass(frozen=True)
class Firings:
    """The firings of C components at P positions.

    Args:
        n_components: C.
        ends: int64 [P + 1]; the firings at position p are those from `ends[p]` to `ends[p + 1]`.
        component: int32 [n], which component fired.
    """

    n_components: int
    ends: NDArray[np.int64]
    component: NDArray[np.int32]

    @classmethod
    def joined(
        cls,
        n_components: int,
        per_position: Sequence[NDArray[np.integer]],
        component: Sequence[NDArray[np.int32]],
    ) -> Self:
        """From consecutive pieces: firings at each position, and the components that fired."""
        ends = np.zeros(sum(map(len, per_position)) + 1, np.int64)
        np.cumsum(np.concatenate([*per_position, np.empty(0, np.int64)]), out=ends[1:])
        return cls(n_components, ends, np.concatenate([*component, np.empty(0, np.int32)]))

    @property
    def n_positions(self) -> int:
        """P."""
        return len(self.ends) - 1

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Firings of each component, int64 [C]."""
        return np.bincount(self.component, minlength=self.n_components)

    def of_those_alive(self) -> tuple[Self, NDArray[np.int64]]:
        """The same, numbered among the components that fired; and which they are, int64 [alive]."""
        alive = np.flatnonzero(self.counts)
        place = np.zeros(self.n_components, np.int32)
        place[alive] = np.arange(len(alive), dtype=np.int32)
        return type(self)(len(alive), self.ends, place[self.component]), alive

    def transposed(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same by component: ends, int64 [C + 1], and positions, int64 [n], rising in each."""
        ends = np.zeros(self.n_components + 1, np.int64)
        np.cumsum(self.counts, out=ends[1:])
        position = np.empty(len(self.component), np.int64)
        _transpose(self.ends, self.component, ends[:-1].copy(), position)
        return ends, position


def cross_counts(
    ends: NDArray[np.int64], position: NDArray[np.int64], other: Firings, rows: range
) -> NDArray[np.int64]:
    """Positions at which a component of one harvest and one of another fired.

    Args:
        ends: of the firings of the one by component; see `Firings.transposed`.
        position: of these firings.
        other: firings of the other at the same positions.
        rows: which components of the one.

    Returns:
        int64 [rows, C of the other]; those of several groups of positions add up.
    """
    counts = np.zeros((len(rows), other.n_components), np.int64)
    _count(counts, ends[rows.start : rows.stop + 1], position, other.ends, other.component)
    return counts


@compiled
def _transpose(
    ends: NDArray[np.int64],
    component: NDArray[np.int32],
    free: NDArray[np.int64],
    position: NDArray[np.int64],
) -> None:
    """Put each firing at the next free place of its component."""
    for p in range(len(ends) - 1):
        for i in range(ends[p], ends[p + 1]):
            c = component[i]
            position[free[c]] = p
            free[c] += 1


@compiled
def _count(
    counts: NDArray[np.int64],
    ends: NDArray[np.int64],
    position: NDArray[np.int64],
    other_ends: NDArray[np.int64],
    other: NDArray[np.int32],
) -> None:
    """One component at a time, so that the counts being changed stay in the CPU's cache."""
    for c in range(len(counts)):
        row = counts[c]
        for i in range(ends[c], ends[c + 1]):
            p = position[i]
            for j in range(other_ends[p], other_ends[p + 1]):
                row[other[j]] += 1
