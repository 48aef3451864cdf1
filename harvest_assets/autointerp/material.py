"""What trials are made from: the components of a harvest, their densities and their examples."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from harvest_assets.autointerp.draws import Draws
from harvest_assets.autointerp.settings import ComponentChoice
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.untrusted import read_json
from harvest_assets.results.component_index import ComponentIndex
from harvest_assets.results.count_tensors import CorrelationStorage
from harvest_assets.results.examples import StoredExamples
from harvest_assets.schemas import LocatedExample

_DEFAULT_THRESHOLD = 1e-6  # of writers that did not record it
_EXAMPLES = 100  # of a component: any first ones of the sample are a uniform sample themselves
_COMPONENTS_IN_MEMORY = 512


@dataclass(frozen=True)
class Component:
    """A component that fired.

    Args:
        key: of the component.
        flat_index: in flat order of all components.
        density: firings per position.
    """

    key: str
    flat_index: int
    density: float

    @property
    def layer(self) -> str:
        """Path of the decomposed module."""
        return self.key.rpartition(":")[0]


class Material:
    """The components of a finished harvest; examples are read when they are needed.

    Args:
        paths: of the harvest.

    Raises:
        HarvestError: the harvest is not finished, or its files are damaged.
    """

    def __init__(self, paths: HarvestLayout) -> None:
        missing = [path for path in paths.five_files if not path.exists()]
        if missing:
            raise HarvestError(f"{missing[0]} is missing; finish the harvest first.")
        self._correlations = CorrelationStorage.load(paths.component_correlations)
        self._counts = self._correlations.count_i.numpy()
        total = max(1, self._correlations.count_total)
        self.components = {
            key: Component(key, place, count / total)
            for place, (key, count) in enumerate(
                zip(self._correlations.component_keys, self._counts.tolist(), strict=True)
            )
            if count > 0
        }
        self._by_density = sorted(
            self.components.values(), key=lambda it: (it.density, it.flat_index)
        )
        self.ci_threshold = _ci_threshold(paths)
        self._stored = StoredExamples(paths, ComponentIndex.open(paths))
        self._all_examples = lru_cache(maxsize=2)(self._read_examples)
        self.examples = lru_cache(maxsize=_COMPONENTS_IN_MEMORY)(self._examples)
        self.places = lru_cache(maxsize=2)(self._places)
        self.firings_shared_with = lru_cache(maxsize=1)(self._firings_shared_with)

    def choose(self, choice: ComponentChoice) -> list[Component]:
        """The components that are asked for, in flat order.

        Raises:
            HarvestError: there are none.
        """
        chosen = [it for it in self.components.values() if _is_wanted(it, choice)]
        if not chosen:
            raise HarvestError(
                f"None of the {len(self.components):,} components that fired is in the layers and "
                "the range of densities that were asked for."
            )
        if choice.components:
            chosen = Draws(choice.seed, "components").sample(chosen, choice.components)
        return sorted(chosen, key=lambda it: it.flat_index)

    def _examples(self, key: str) -> tuple[LocatedExample, ...]:
        """The first examples of a component's sample; called as `examples`."""
        return self._all_examples(key)[:_EXAMPLES]

    def _places(self, key: str) -> frozenset[tuple[int | None, int | None]]:
        """Row and position of all firings of a component's sample; called as `places`."""
        return frozenset((it.row, it.position) for it in self._all_examples(key))

    def _read_examples(self, key: str) -> tuple[LocatedExample, ...]:
        return tuple(self._stored.of(key, "sample") or ())

    def _firings_shared_with(self, component: Component) -> NDArray[np.float64]:
        """For each component in flat order, the share of its firings at which this one fires too.

        Zero where co-firings were not counted. Called as `firings_shared_with`.
        """
        counts = self._correlations.count_ij
        if counts is None:
            return np.zeros(len(self._counts))
        together = counts[component.flat_index].numpy()
        shares: NDArray[np.float64] = together / np.maximum(self._counts, 1)
        return shares

    def _place_by_density(self, component: Component) -> int:
        return bisect_left(
            self._by_density,
            (component.density, component.flat_index),
            key=lambda it: (it.density, it.flat_index),
        )

    def nearest_in_density(self, component: Component, k: int) -> list[Component]:
        """The k other components whose density differs least, as a ratio; nearest first."""
        at = self._place_by_density(component)
        near = self._by_density[max(0, at - k) : at] + self._by_density[at + 1 : at + 1 + k]
        near.sort(key=lambda it: (_ratio(it.density, component.density), it.flat_index))
        return near[:k]

    def strata(self, component: Component, n: int) -> list[list[Component]]:
        """The other components in n groups of rising density and equal size."""
        at = self._place_by_density(component)
        others = self._by_density[:at] + self._by_density[at + 1 :]
        cuts = [len(others) * i // n for i in range(n + 1)]
        return [others[a:b] or others for a, b in pairwise(cuts)]


def _ratio(a: float, b: float) -> float:
    return max(a, b) / min(a, b)


def _is_wanted(component: Component, choice: ComponentChoice) -> bool:
    patterns: Sequence[str] = choice.layers or ("*",)
    return choice.min_density <= component.density <= choice.max_density and any(
        fnmatchcase(component.layer, pattern) for pattern in patterns
    )


def _ci_threshold(paths: HarvestLayout) -> float:
    try:
        return float(read_json(paths.config).get("ci_threshold", _DEFAULT_THRESHOLD))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise HarvestError(f"{paths.config} has no valid ci_threshold.") from error
