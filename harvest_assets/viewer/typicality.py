"""Where a firing strength lies among those of a component's harvested firings."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

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
        self._samples: OrderedDict[int, NDArray[np.float64]] = OrderedDict()

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
            # Of `harvester.histogram`, which loads torch.
            edges = np.logspace(-6, 0, len(histogram) - 1).astype(np.float32)
            at = int(np.searchsorted(edges, np.float32(strength), side="right"))
            return _share(int(histogram[:at].sum()), int(histogram[at]), int(histogram.sum()))
        sample = self._sample(place)
        low, high = (int(np.searchsorted(sample, strength, side=s)) for s in ("left", "right"))
        return _share(low, high - low, len(sample))

    def _sample(self, place: int) -> NDArray[np.float64]:
        """The strengths of the sampled firings of a component, rising."""
        if place not in self._samples:
            examples = self._harvest.examples(place, "sample")
            values = [example.ci_values[len(example.ci_values) // 2] for example in examples]
            self._samples[place] = np.sort(np.array(values, dtype=np.float64))
            if len(self._samples) > _MAX_KEPT:
                self._samples.popitem(last=False)
        return self._samples[place]


def _share(below: int, equal: int, total: int) -> float | None:
    return (below + equal / 2) / total if total else None
