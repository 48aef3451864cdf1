"""A harvest that is not finished: the states saved so far, which add up exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.results.pmi import telling
from harvest_assets.schemas import ActivationExample
from harvest_assets.store.shards import SHARD_KEYS, ShardResults, StoredState, Work
from harvest_assets.viewer.harvest import (
    Harvest,
    Order,
    PlacedExample,
    Progress,
    page_vocabulary,
)

if TYPE_CHECKING:
    import polars as pl

    from harvest_assets.files.layout import HarvestLayout
    from harvest_assets.harvester import HarvesterState
    from harvest_assets.store.plan import HarvestPlan

_TOKENS = 5


class HarvestInProgress(Harvest):
    """The sum of the states that were saved so far.

    Args:
        paths: of the harvest.
        plan: of the harvest.

    Raises:
        HarvestError: a state or what describes the harvest is missing or damaged.
    """

    def __init__(self, paths: HarvestLayout, plan: HarvestPlan) -> None:
        checkpoint = open_decomposition(paths.root)
        stored = ShardResults(paths).saved_so_far(plan)
        self._states: list[HarvesterState] = [s.open(trusted=True) for s in stored.values()]
        self._vocab_size = checkpoint.vocab_size
        self._limit = checkpoint.tokenizer_vocab_size
        self._k = plan.activation_examples_per_component
        self._told: dict[int, tuple[list[int], list[int]]] = {}
        n = sum(c for _, c in checkpoint.layers)
        self._histogram = np.zeros((n, 64), np.int64)
        ci_sums = np.zeros(n)
        for state in self._states:
            self._histogram += state.ci_histogram.numpy()
            ci_sums += state.ci_sums.numpy()
        n_tokens = sum(state.total_tokens_processed for state in self._states)
        vocabulary, doubts = page_vocabulary(lambda: checkpoint.tokenizer)
        super().__init__(
            paths.root.name,
            plan.model_dump() | checkpoint.tokenizer.as_config(),
            _frame(checkpoint, self._histogram.sum(axis=1), ci_sums, max(1, n_tokens)),
            n_tokens,
            vocabulary,
            doubts,
            _progress(stored, Work.of(paths, plan)),
        )

    def told(self, place: int) -> tuple[list[int], list[int]]:
        """See `Harvest`; counted when it is asked for."""
        if place not in self._told:
            firings = float(self.firing_counts[place])
            reads, predicts = (
                telling(counts, firings, totals, self.n_tokens, _TOKENS, self._limit)[0]
                for counts, totals in (self.input_counts(place), self.output_mass(place))
            )
            self._told[place] = (reads, predicts)
        return self._told[place]

    def ci_histogram(self, place: int) -> NDArray[np.int64]:
        """See `Harvest`."""
        histogram: NDArray[np.int64] = self._histogram[place]
        return histogram

    def together(self, place: int) -> NDArray[np.int64]:
        """See `Harvest`."""
        n = len(self.frame)
        counts = np.zeros(n, np.int64)
        # Above the diagonal a column of the packed triangle, from it on a stretch.
        above = np.arange(place, dtype=np.int64)
        column = above * n - above * (above - 1) // 2 + place - above
        start = place * n - place * (place - 1) // 2
        for state in self._states:
            packed = state.cooccurrence.numpy()
            counts[:place] += packed[column]
            counts[place:] += packed[start : start + n - place]
        return counts

    def input_counts(self, place: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """See `Harvest`."""
        counts = np.zeros(self._vocab_size, np.int64)
        totals = np.zeros(self._vocab_size)
        for state in self._states:
            counts += state.input_counts[place].numpy()
            totals += state.input_token_totals.numpy()
        return counts, totals

    def output_mass(self, place: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Harvest`."""
        mass, totals = np.zeros(self._vocab_size), np.zeros(self._vocab_size)
        for state in self._states:
            mass += state.output_token_prob_mass[place].numpy()
            totals += state.output_token_prob_totals.numpy()
        return mass, totals

    def examples(self, place: int, order: Order) -> list[PlacedExample]:
        """See `Harvest`."""
        if not self._states:
            return []
        from harvest_assets.harvester.reservoir import ReservoirSampler
        from harvest_assets.harvester.state import N_HIGHEST, rows_between

        tables = [s.sample if order == "sample" else s.highest for s in self._states]
        parts = [table.select(rows_between(table, place, place + 1)) for table in tables]
        merged = ReservoirSampler.merge(parts, self._k if order == "sample" else N_HIGHEST)
        lists = (column.tolist() for column in merged[2:])
        return [
            PlacedExample(ActivationExample(tokens, ci, acts), (row, position))
            for row, position, tokens, ci, acts in zip(*lists, strict=True)
        ]


def _frame(
    checkpoint: Decomposition,
    firings: NDArray[np.int64],
    ci_sums: NDArray[np.float64],
    n_tokens: int,
) -> pl.DataFrame:
    import polars as pl

    places = [(layer, index) for layer, c in checkpoint.layers for index in range(c)]
    n = len(places)
    return pl.DataFrame(
        {
            "component_key": [f"{layer}:{index}" for layer, index in places],
            "layer": [layer for layer, _ in places],
            "component_idx": pl.Series([index for _, index in places], dtype=pl.Int32),
            "flat_index": pl.Series(range(n), dtype=pl.Int32),
            "firing_count": firings,
            "density": firings / n_tokens,
            "mean_ci": ci_sums / n_tokens,
            "telling": pl.Series([None] * n, dtype=pl.Float64),
            "reads": pl.Series([None] * n, dtype=pl.List(pl.Int32)),
            "predicts": pl.Series([None] * n, dtype=pl.List(pl.Int32)),
        }
    )


def _progress(stored: dict[str, StoredState], work: Work) -> Progress:
    shards = tuple(
        (name, len(stored[name].rows) if name in stored else 0, len(share))
        for name, share in zip(SHARD_KEYS, work.shares, strict=False)
        if share
    )
    return Progress(sum(len(s.rows) for s in stored.values()), work.n_rows, shards)
