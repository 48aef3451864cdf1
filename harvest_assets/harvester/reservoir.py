"""Samples of at most k firings for each of many components.

Each component keeps the k firings of lowest priority (bottom-k sampling; Cohen & Kaplan 2007,
https://doi.org/10.1145/1281100.1281133). Where priorities are random that is a uniform sample
without replacement; keeping the k lowest commutes with splitting and merging, so the sample is the
same however the firings arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

_NOT_FULL = torch.iinfo(torch.int64).max
# Below this many rows a compaction costs more in calls than in work.
_MIN_PENDING = 1 << 16


class ExampleTable(NamedTuple):
    """Sampled firings, one a row; n rows, windows of W tokens around the firing."""

    component: torch.Tensor  # int64 [n], flat component index
    priority: torch.Tensor  # int64 [n], lower is kept first
    row: torch.Tensor  # int64 [n], row of the whole harvest
    position: torch.Tensor  # int32 [n], position in the row
    token_ids: torch.Tensor  # int32 [n, W], -1 outside the sequence
    ci_values: torch.Tensor  # float32 [n, W]
    component_acts: torch.Tensor  # float32 [n, W]

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> ExampleTable:
        """A table without rows."""

        def column(dtype: torch.dtype, *shape: int) -> torch.Tensor:
            return torch.empty((0, *shape), dtype=dtype, device=device)

        return cls(
            column(torch.int64),
            column(torch.int64),
            column(torch.int64),
            column(torch.int32),
            column(torch.int32, width),
            column(torch.float32, width),
            column(torch.float32, width),
        )

    def select(self, index: torch.Tensor | slice) -> ExampleTable:
        """The rows at `index`, in its order."""
        return ExampleTable(*(column[index] for column in self))

    def to(self, device: torch.device | str) -> ExampleTable:
        """The same table on a device."""
        return ExampleTable(*(column.to(device) for column in self))

    @staticmethod
    def concatenate(tables: list[ExampleTable]) -> ExampleTable:
        """The rows of all tables."""
        return ExampleTable(*(torch.cat(columns) for columns in zip(*tables, strict=True)))


def lowest(table: ExampleTable, k: int) -> ExampleTable:
    """The k rows of lowest priority of each component, by component and priority.

    Equal priorities are told apart by row and position, so the order is total.
    """
    order = _sorted_order(table.component, table.priority, table.row, table.position)
    return table.select(order[_rank_in_group(table.component[order]) < k])


def _sorted_order(component: torch.Tensor, *keys: torch.Tensor) -> torch.Tensor:
    """Order by component, then by the keys; stable sorts from the last key to the first."""
    order = torch.arange(len(component), device=component.device)
    for key in (*reversed(keys), component):
        order = order[torch.argsort(key[order], stable=True)]
    return order


def _rank_in_group(sorted_groups: torch.Tensor) -> torch.Tensor:
    """Place of each element in its run of equal values."""
    n = len(sorted_groups)
    place = torch.arange(n, device=sorted_groups.device)
    starts = torch.ones(n, dtype=torch.bool, device=sorted_groups.device)
    starts[1:] = sorted_groups[1:] != sorted_groups[:-1]
    return place - torch.where(starts, place, 0).cummax(0).values if n else place


class ReservoirSampler:
    """At most `k` firings for each component, those of lowest priority.

    Args:
        n_components: flat component indices are below this.
        k: firings kept of each component.
        width: tokens of a window.
        device: where the sample is kept.
    """

    def __init__(
        self, n_components: int, k: int, width: int, device: torch.device | str = "cpu"
    ) -> None:
        self.k = k
        self._kept = ExampleTable.empty(width, device)
        self._pending: list[ExampleTable] = []
        # A firing above its component's bound can never be among the k lowest.
        self._bound = torch.full((n_components,), _NOT_FULL if k else -1, device=device)

    @classmethod
    def of(
        cls, table: ExampleTable, n_components: int, k: int, device: torch.device | str = "cpu"
    ) -> ReservoirSampler:
        """A sampler that goes on from a table."""
        sampler = cls(n_components, k, table.token_ids.shape[1], device)
        sampler._pending = [table.to(device)]
        sampler._compact()
        return sampler

    def add(
        self,
        component: torch.Tensor,
        priority: torch.Tensor,
        gather: Callable[[torch.Tensor], ExampleTable],
    ) -> None:
        """Offer firings; most of them lose at once and nothing of them is gathered.

        Args:
            component: int64 [n], flat component indices.
            priority: int64 [n]; where a component's firings have equal ones, they are offered by
                row and position.
            gather: gives the table rows of those of the n firings whose indices it is handed.
        """
        candidates = (priority <= self._bound[component]).nonzero().squeeze(1)
        if len(candidates) == 0:
            return
        component, priority = component[candidates], priority[candidates]
        order = _sorted_order(component, priority)
        within_k = _rank_in_group(component[order]) < self.k
        self._pending.append(gather(candidates[order[within_k]]))
        if sum(len(t.row) for t in self._pending) > max(_MIN_PENDING, len(self._kept.row) // 4):
            self._compact()

    def table(self) -> ExampleTable:
        """The sample, by component and priority."""
        self._compact()
        return self._kept

    @staticmethod
    def merge(tables: Iterable[ExampleTable], k: int) -> ExampleTable:
        """The sample of everything that the samples were drawn from."""
        return lowest(ExampleTable.concatenate(list(tables)), k)

    def _compact(self) -> None:
        if not self._pending:
            return
        self._kept = self.merge([self._kept, *self._pending], self.k)
        self._pending = []
        component = self._kept.component
        full = _rank_in_group(component) == self.k - 1
        self._bound[component[full]] = self._kept.priority[full]
