"""Counts of components by density and mean CI: the numbers of the charts and of the plots."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS_PER_DECADE = 8
CELLS = (56, 32)
_LOWEST = -6  # power of ten at which the axis begins where no component fired


@dataclass(frozen=True)
class Bins:
    """Counts in bins of equal width on a logarithmic axis.

    Args:
        low, high: powers of ten at the ends of the axis.
        counts: int64 [bins].
    """

    low: int
    high: int
    counts: NDArray[np.int64]

    def edges(self, number: int) -> tuple[float, float]:
        """The values at the two ends of a bin."""
        return _edges(self.low, self.high, len(self.counts), number)

    @property
    def shares(self) -> NDArray[np.float64]:
        """The counts as shares of their sum."""
        shares: NDArray[np.float64] = self.counts / max(1, self.counts.sum())
        return shares


@dataclass(frozen=True)
class Cells:
    """Counts in cells, with logarithmic axes.

    Args:
        x_ends, y_ends: powers of ten at the ends of the axes.
        counts: int64 [columns, rows].
    """

    x_ends: tuple[int, int]
    y_ends: tuple[int, int]
    counts: NDArray[np.int64]

    def x_edges(self, column: int) -> tuple[float, float]:
        """The values at the two ends of a column."""
        return _edges(*self.x_ends, self.counts.shape[0], column)

    def y_edges(self, row: int) -> tuple[float, float]:
        """The values at the two ends of a row."""
        return _edges(*self.y_ends, self.counts.shape[1], row)


def density_bins(density: NDArray[np.float64], n_bins: int | None = None) -> Bins:
    """Components by firing density, from the decade of the lowest to 1.

    Args:
        density: firings per token of each component; components with 0 are left out.
        n_bins: of the whole axis; by default eight in a decade.
    """
    logs = np.log10(density[density > 0])
    low = _begin(logs)
    n = n_bins or -low * BINS_PER_DECADE
    return Bins(low, 0, np.bincount(_places(logs, (low, 0), n), minlength=n))


def density_bins_of(densities: Mapping[str, NDArray[np.float64]]) -> dict[str, Bins]:
    """The components of several harvests by firing density, in the same bins: four in a decade."""
    logs = {name: np.log10(density[density > 0]) for name, density in densities.items()}
    low = _begin(np.concatenate(list(logs.values())))
    n = -low * BINS_PER_DECADE // 2
    return {
        name: Bins(low, 0, np.bincount(_places(values, (low, 0), n), minlength=n))
        for name, values in logs.items()
    }


def jaccard_shares(best: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Components by the Jaccard index with their best match: shares [20], and edges [21]."""
    counts, edges = np.histogram(best, bins=20, range=(0.0, 1.0))
    return counts / max(1, len(best)), edges


def ci_density_cells(density: NDArray[np.float64], mean_ci: NDArray[np.float64]) -> Cells:
    """Components by firing density (columns) and mean CI (rows).

    Args:
        density: firings per token of each component.
        mean_ci: over all positions; components with 0 in either are left out.
    """
    shown = (density > 0) & (mean_ci > 0)
    x, y = np.log10(density[shown]), np.log10(mean_ci[shown])
    x_ends = (_begin(x), 0)
    y_ends = (_begin(y), max(0, math.ceil(y.max())) if len(y) else 0)
    n_x, n_y = CELLS
    cells = _places(x, x_ends, n_x) * n_y + _places(y, y_ends, n_y)
    return Cells(x_ends, y_ends, np.bincount(cells, minlength=n_x * n_y).reshape(CELLS))


def _begin(logs: NDArray[np.float64]) -> int:
    return min(-1, math.floor(logs.min())) if len(logs) else _LOWEST


def _places(logs: NDArray[np.float64], ends: tuple[int, int], n: int) -> NDArray[np.int64]:
    low, high = ends
    return np.clip((logs - low) / (high - low) * n, 0, n - 1).astype(np.int64)


def _edges(low: int, high: int, n: int, number: int) -> tuple[float, float]:
    start, stop = (10 ** (low + (high - low) * (number + end) / n) for end in (0, 1))
    return start, stop
