"""A harvest in progress: the exact sum of the states saved so far."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.results.pmi import informative_tokens
from harvest_assets.store.shards import SHARD_KEYS, ShardResults, StoredState, Work
from harvest_assets.viewer.harvest import (
    Harvest,
    Progress,
    page_vocabulary,
)
from harvest_assets.viewer.words import Words, words_of

if TYPE_CHECKING:
    import polars as pl

    from harvest_assets.files.layout import HarvestLayout
    from harvest_assets.harvester.state_sum import StateSum
    from harvest_assets.schemas import ExampleOrder, LocatedExample
    from harvest_assets.store.plan import HarvestPlan

_TOKENS = 5


class HarvestInProgress(Harvest):
    """The sum of the states that were saved so far.

    Args:
        paths: of the harvest.
        plan: of the harvest.

    Raises:
        HarvestError: a state or a description of the harvest is missing or damaged.
    """

    def __init__(self, paths: HarvestLayout, plan: HarvestPlan) -> None:
        from harvest_assets.harvester.state_sum import StateSum
        from harvest_assets.store.harvester_settings import harvester_settings

        checkpoint = open_decomposition(paths.root).restricted(plan.layers)
        work = Work.of(paths, plan)
        stored = ShardResults(paths).saved_so_far(work)
        self._sum = StateSum(
            (s.open(trusted=True) for s in stored.values()), harvester_settings(plan, checkpoint)
        )
        self._limit = checkpoint.tokenizer_vocab_size
        self._values = {
            "kind": checkpoint.kind,
            "firing_strength": checkpoint.firing_strength,
            "second_value": checkpoint.second_value,
        }
        self._informative: dict[int, tuple[list[int], list[int]]] = {}
        n_tokens = self._sum.total_tokens_processed
        vocabulary, doubts = page_vocabulary(lambda: checkpoint.tokenizer, paths)
        super().__init__(
            paths.root.name,
            plan.model_dump() | checkpoint.tokenizer.as_config() | {"kind": checkpoint.kind},
            _frame(self._sum),
            n_tokens,
            vocabulary,
            doubts,
            _progress(stored, work),
            paths,
        )

    @cached_property
    def words(self) -> Words:
        """See `Harvest`."""
        return words_of(self._values)

    def informative_tokens(self, place: int) -> tuple[list[int], list[int]]:
        """See `Harvest`; computed when first needed."""
        if place not in self._informative:
            firings = float(self.firing_counts[place])
            reads, predicts = (
                informative_tokens(counts, firings, totals, self.n_tokens, _TOKENS, self._limit)[0]
                for counts, totals in (self.input_counts(place), self.output_mass(place))
            )
            self._informative[place] = (reads, predicts)
        return self._informative[place]

    def ci_histogram(self, place: int) -> NDArray[np.int64]:
        """See `Harvest`."""
        histogram: NDArray[np.int64] = self._sum.ci_histogram[place].numpy()
        return histogram

    @property
    def counts_cofirings(self) -> bool:
        """See `Harvest`."""
        return self._sum.settings.cooccurrence

    def together(self, place: int) -> NDArray[np.int64]:
        """See `Harvest`."""
        counts: NDArray[np.int64] = self._sum.cooccurrence_of(place).numpy()
        return counts

    def input_counts(self, place: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """See `Harvest`."""
        counts = self._sum.input_counts(slice(place, place + 1))[0]
        return counts.numpy(), self._sum.input_token_totals.double().numpy()

    def output_mass(self, place: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Harvest`."""
        mass = self._sum.output_mass(slice(place, place + 1))[0]
        return mass.numpy(), self._sum.output_token_prob_totals.numpy()

    def examples(self, place: int, order: ExampleOrder) -> list[LocatedExample]:
        """See `Harvest`."""
        read = {
            "sample": self._sum.sample,
            "ci": self._sum.highest_ci,
            "activation": self._sum.highest_activation,
        }[order]
        return read(slice(place, place + 1)).located()

    @property
    def has_highest_activation(self) -> bool:
        """See `Harvest`."""
        return self._sum.has_highest_activation


def _frame(total: StateSum) -> pl.DataFrame:
    import polars as pl

    layers, n_tokens = total.settings.layers, max(1, total.total_tokens_processed)
    places = [(layer, index) for layer, c in layers for index in range(c)]
    n, firings = len(places), total.firing_counts.numpy()
    return pl.DataFrame(
        {
            "component_key": total.settings.component_keys,
            "layer": [layer for layer, _ in places],
            "component_idx": pl.Series([index for _, index in places], dtype=pl.Int32),
            "flat_index": pl.Series(range(n), dtype=pl.Int32),
            "firing_count": firings,
            "density": firings / n_tokens,
            "mean_ci": total.ci_sums.numpy() / n_tokens,
            "informativeness": pl.Series([None] * n, dtype=pl.Float64),
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
