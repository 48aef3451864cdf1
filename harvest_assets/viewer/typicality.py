"""How a firing strength compares with those of a component's harvested firings."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harvest_assets.schemas import ci_bin_edges

if TYPE_CHECKING:
    from harvest_assets.viewer.harvest import Harvest

_MAX_KEPT = 2000  # components whose sampled strengths are in memory, 8 kB each


class Typicality:
    """The percentiles of firing strengths.

    Causal importances are between 0 and 1, as the bins of the histogram of all firings; the
    strengths of other kinds are compared with those of the sampled firings.

    Args:
        harvest: to compare with.
    """

    def __init__(self, harvest: Harvest) -> None:
        self._harvest = harvest
        self._has_bins = harvest.config.get("kind", "spd") == "spd"
        self._edges = ci_bin_edges().astype(np.float32)  # in which firings were counted
        self._sample = lru_cache(maxsize=_MAX_KEPT)(self._sorted_sample)

    def percentile(self, place: int, strength: float) -> float | None:
        """The share of firings that are weaker, plus half of those that are as strong.

        Args:
            place: of the component.
            strength: of its firing.

        Returns:
            0 to 1; None where nothing was kept of its firings.
        """
        histogram = self._harvest.ci_histogram(place) if self._has_bins else None
        if histogram is not None:
            at = int(np.searchsorted(self._edges, np.float32(strength), side="right"))
            return _share(int(histogram[:at].sum()), int(histogram[at]), int(histogram.sum()))
        sample = self._sample(place)
        low, high = (int(np.searchsorted(sample, strength, side=s)) for s in ("left", "right"))
        return _share(low, high - low, len(sample))

    def _sorted_sample(self, place: int) -> NDArray[np.float64]:
        """The strengths of the sampled firings of a component, rising."""
        examples = self._harvest.examples(place, "sample")
        values = [example.ci_values[len(example.ci_values) // 2] for example in examples]
        return np.sort(np.array(values, dtype=np.float64))


def _share(below: int, equal: int, total: int) -> float | None:
    return (below + equal / 2) / total if total else None
