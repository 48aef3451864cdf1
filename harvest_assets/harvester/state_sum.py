"""The sum of states of disjoint rows; the only code that adds states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

import torch

from harvest_assets.errors import HarvestError
from harvest_assets.harvester.counters import (
    COUNT_TYPES,
    add_upper,
    packed_length,
    packed_row,
)
from harvest_assets.harvester.filled import cut, entries, filled_parts, runs
from harvest_assets.harvester.histogram import N_BINS
from harvest_assets.harvester.reservoir import ExampleTable, ReservoirSampler
from harvest_assets.harvester.state import N_HIGHEST, HarvesterSettings, HarvesterState

# Entries of a large matrix that are added in one step.
_BLOCK_ENTRIES = 1 << 22
# Examples of all states that are merged in one step.
_BLOCK_EXAMPLES = 1 << 18


# Returns a tensor of zeros of the given name, shape and dtype, of whose first dimension only the
# given slices will be written.
Allocate = Callable[[str, Sequence[int], torch.dtype, Sequence[slice]], torch.Tensor]


def _in_memory(
    _name: str, shape: Sequence[int], dtype: torch.dtype, _filled: Sequence[slice]
) -> torch.Tensor:
    return torch.zeros(tuple(shape), dtype=dtype)


class StateSum:
    """States of disjoint rows, added when a statistic is read.

    Integers and examples do not depend on the order and grouping of the states, float sums only in
    their last bits. What has a row per component is read in blocks of components, so that states
    in memory-mapped files are never in memory as a whole. C is the number of components of all
    layers, V the vocabulary.

    Args:
        states: of equal settings.
        settings: of the states; required only where there may be none, which add up to zero.

    Raises:
        HarvestError: the states have different settings, or there are neither states nor settings.
    """

    def __init__(
        self, states: Iterable[HarvesterState], settings: HarvesterSettings | None = None
    ) -> None:
        self._states = tuple(states)
        self.settings = _common_settings(self._states, settings)

    @property
    def n_states(self) -> int:
        """The number of states."""
        return len(self._states)

    @cached_property
    def total_tokens_processed(self) -> int:
        """Positions seen."""
        return sum(state.total_tokens_processed for state in self._states)

    @cached_property
    def ci_histogram(self) -> torch.Tensor:
        """Firings of each component by causal importance, int64 [C, 64]."""
        return _added((s.ci_histogram for s in self._states), (self._n, N_BINS))

    @cached_property
    def firing_counts(self) -> torch.Tensor:
        """Firings of each component, int64 [C]."""
        return self.ci_histogram.sum(dim=1)

    @cached_property
    def fired(self) -> torch.Tensor:
        """Which components fired, bool [C]; of the others no large statistic is read."""
        return self.ci_histogram.any(dim=1)

    @property
    def n_examples(self) -> int:
        """Examples of the uniform sample, of all components."""
        return int(
            self.firing_counts.clamp(
                max=self.settings.sample.activation_examples_per_component
            ).sum()
        )

    @cached_property
    def ci_sums(self) -> torch.Tensor:
        """Causal importance of each component, summed over all positions, float64 [C]."""
        return _stacked([s.ci_sums for s in self._states], self._n)

    @cached_property
    def input_token_totals(self) -> torch.Tensor:
        """Occurrences of each token, int64 [V]."""
        return _added((s.input_token_totals for s in self._states), (self._v,))

    @cached_property
    def output_token_prob_totals(self) -> torch.Tensor:
        """Next-token probability, summed over all positions, float64 [V]."""
        return _stacked([s.output_token_prob_totals for s in self._states], self._v)

    def input_counts(self, block: slice) -> torch.Tensor:
        """Occurrences of each token where a component of the block fired, int64 [block, V]."""
        return self._rows("input_counts", block, torch.int64)

    def output_mass(self, block: slice) -> torch.Tensor:
        """Next-token probability summed where a component fired, float64 [block, V]."""
        return self._rows("output_token_prob_mass", block, torch.float64)

    def add_upper_cooccurrence(self, rows: torch.Tensor, start: int) -> None:
        """Add the positions at which two components both fired to `rows`, int64 [n, C].

        The rows are those of the components from `start` on; only entries on and above the diagonal
        of [C, C] are added to.
        """
        for state in self._states:
            add_upper(rows, state.cooccurrence, start)

    def cooccurrence_of(self, component: int) -> torch.Tensor:
        """Positions at which one component and each component both fired, int64 [C]."""
        parts = (packed_row(s.cooccurrence, self._n, component) for s in self._states)
        return _added(parts, (self._n,))

    def sample(self, block: slice) -> ExampleTable:
        """The uniform sample of a block of components, by component and priority."""
        tables = (s.sample for s in self._states)
        return self._examples(tables, block, self.settings.sample.activation_examples_per_component)

    def highest_ci(self, block: slice) -> ExampleTable:
        """The firings of highest causal importance, by component, highest first."""
        return self._highest((s.highest_ci for s in self._states), block)

    @property
    def has_highest_activation(self) -> bool:
        """Whether all states have the firings of largest activation."""
        return all(s.highest_activation is not None for s in self._states)

    def highest_activation(self, block: slice) -> ExampleTable:
        """The firings of largest absolute activation, by component, largest first.

        Only of the states that have them; see `has_highest_activation`.
        """
        tables = (s.highest_activation for s in self._states)
        return self._highest((table for table in tables if table is not None), block)

    def state(self, allocate: Allocate = _in_memory) -> HarvesterState:
        """The sum as one state.

        Args:
            allocate: of the three large statistics and the columns of examples, which are filled
                block by block.
        """
        n, v = self._n, self._v

        def filled(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
            if 0 in shape:
                return torch.zeros(shape, dtype=dtype)
            places = [entries(name, run, n) for run in runs(self.fired)]
            total = allocate(name, shape, dtype, places)
            parts = [getattr(s, name) for s in self._states]
            for place in places:
                for block in cut(place, _BLOCK_ENTRIES // total[:1].numel()):
                    rows = total[block]
                    added = _added((part[block] for part in parts), rows.shape, _sum_type(dtype))
                    rows.copy_(added)
            return total

        return HarvesterState(
            settings=self.settings,
            total_tokens_processed=self.total_tokens_processed,
            ci_sums=self.ci_sums,
            ci_histogram=self.ci_histogram,
            cooccurrence=filled(
                "cooccurrence",
                (packed_length(self.settings.n_paired),),
                self._count_type("cooccurrence"),
            ),
            input_counts=filled("input_counts", (n, v), self._count_type("input_counts")),
            input_token_totals=self.input_token_totals,
            output_token_prob_mass=filled("output_token_prob_mass", (n, v), torch.float64),
            # One after the other, as the rows of the mass.
            output_token_prob_totals=_added(
                (s.output_token_prob_totals for s in self._states), (v,), torch.float64
            ),
            sample=self._whole(
                "sample", self.settings.sample.activation_examples_per_component, allocate
            ),
            highest_ci=self._whole("highest_ci", N_HIGHEST, allocate),
            highest_activation=(
                self._whole("highest_activation", N_HIGHEST, allocate)
                if self.has_highest_activation
                else None
            ),
        )

    def _whole(self, name: str, k: int, allocate: Allocate) -> ExampleTable:
        """The examples of all components, at most k of each, merged a block at a time."""
        there = torch.zeros(self._n, dtype=torch.int64)
        for state in self._states:
            there += torch.bincount(getattr(state, name).component, minlength=self._n)
        n = int(there.clamp(max=k).sum())
        whole = ExampleTable.empty(self.settings.window)
        if n == 0:
            return whole
        whole = ExampleTable(
            *(
                allocate(f"{name}.{field}", (n, *column.shape[1:]), column.dtype, [slice(0, n)])
                for field, column in whole._asdict().items()
            )
        )
        start = 0
        for block in blocks(self._n, _BLOCK_EXAMPLES // (k * max(1, self.n_states))):
            part = getattr(self, name)(block)
            stop = start + len(part.component)
            for column, values in zip(whole, part, strict=True):
                column[start:stop] = values
            start = stop
        return whole

    def _rows(self, name: str, block: slice, dtype: torch.dtype) -> torch.Tensor:
        """The rows [block, V] of a statistic, added one state after the other."""
        total = torch.zeros(block.stop - block.start, self._v, dtype=dtype)
        for run in runs(self.fired[block]):
            rows = total[run]
            for state in self._states:
                rows += getattr(state, name)[block][run]
        return total

    @property
    def _n(self) -> int:
        return self.settings.n_components

    @property
    def _v(self) -> int:
        return self.settings.vocab_size

    def _highest(self, tables: Iterable[ExampleTable], block: slice) -> ExampleTable:
        return self._examples(tables, block, N_HIGHEST, self.settings.sample.seed)

    def _examples(
        self, tables: Iterable[ExampleTable], block: slice, k: int, seed: int | None = None
    ) -> ExampleTable:
        parts = [table.of_components(block.start, block.stop) for table in tables]
        return ReservoirSampler.merge([ExampleTable.empty(self.settings.window), *parts], k, seed)

    def _count_type(self, name: str) -> torch.dtype:
        """The narrowest integer type that certainly holds a sum of counts."""
        bound = sum(
            max((int(part.max()) for part in filled_parts(s, name) if part.numel()), default=0)
            for s in self._states
        )
        return next(dtype for dtype in COUNT_TYPES if bound <= torch.iinfo(dtype).max)


def blocks(n: int, step: int) -> Iterator[slice]:
    """Cut `range(n)` into slices of `step`, at least 1."""
    return cut(slice(0, n), step)


def _common_settings(
    states: Sequence[HarvesterState], settings: HarvesterSettings | None
) -> HarvesterSettings:
    if settings is None:
        if not states:
            raise HarvestError("There are no states to add; give at least one.")
        settings = states[0].settings
    for state in states:
        if state.settings == settings:
            continue
        theirs = state.settings.flat()
        for name, ours in settings.flat().items():
            if ours != theirs[name]:
                raise HarvestError(
                    f"States with different {name} do not add up: {ours}, {theirs[name]}."
                )
    return settings


def _sum_type(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.is_floating_point else torch.int64


def _added(
    parts: Iterable[torch.Tensor], shape: Sequence[int], dtype: torch.dtype = torch.int64
) -> torch.Tensor:
    """The sum of tensors, added one after the other."""
    total = torch.zeros(tuple(shape), dtype=dtype)
    for part in parts:
        total += part
    return total


def _stacked(parts: list[torch.Tensor], length: int) -> torch.Tensor:
    """The sum of float64 vectors.

    From five vectors on, `sum` rounds differently from adding one after the other; the results
    written from it must stay the same to the last bit.
    """
    return torch.stack(parts).sum(dim=0) if parts else torch.zeros(length, dtype=torch.float64)
