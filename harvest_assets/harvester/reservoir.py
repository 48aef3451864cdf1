"""Samples of at most k firings for each of many components.

Each component keeps the k firings of lowest priority (bottom-k sampling; Cohen & Kaplan 2007,
https://doi.org/10.1145/1281100.1281133). Where priorities are random that is a uniform sample
without replacement; keeping the k lowest commutes with splitting and merging, so the sample does
not depend on the order in which firings arrive. Where they follow from values of the firings, ties
go to the firing that a uniform sample would keep first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from harvest_assets.harvester.counters import add_occurrences
from harvest_assets.harvester.gpu.download import to_host
from harvest_assets.harvester.priorities import firing_priorities, position_hashes
from harvest_assets.schemas import LocatedExample

_NOT_FULL = torch.iinfo(torch.int64).max
# With fewer rows, sorting costs more in calls than in work.
_MIN_PENDING = 1 << 16
# A gigabyte of windows of 21 tokens.
_FIRST_SLOTS = 1 << 22
# Returns the further keys of the firings at some indices.
Ties = Callable[[torch.Tensor], Sequence[torch.Tensor]]


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

    def of_components(self, start: int, stop: int) -> ExampleTable:
        """The rows of the components from `start` to `stop`, in a table sorted by component."""
        bounds = torch.tensor([start, stop], device=self.component.device)
        first, last = torch.searchsorted(self.component, bounds).tolist()
        return self.select(slice(first, last))

    def located(self) -> list[LocatedExample]:
        """The rows as examples."""
        columns = (self.token_ids, self.ci_values, self.component_acts, self.row, self.position)
        values = (column.tolist() for column in columns)
        return [LocatedExample(*example) for example in zip(*values, strict=True)]

    def to(self, device: torch.device | str) -> ExampleTable:
        """The same table on a device."""
        return ExampleTable(*(column.to(device) for column in self))


def _sorted_order(
    component: torch.Tensor, priority: torch.Tensor, ties: Ties | None = None
) -> torch.Tensor:
    """Order by component, then by priority; ties in both by the keys that `ties` returns."""
    order = _stable_order(component, priority)
    if ties is None or len(order) == 0:
        return order
    component, priority = component[order], priority[order]
    differs = (component[1:] != component[:-1]) | (priority[1:] != priority[:-1])
    differs = pad(differs, (1, 1), value=True)
    tied = (~(differs[1:] & differs[:-1])).nonzero().squeeze(1)
    if len(tied):
        among, group = order[tied], differs.cumsum(0)[tied]
        order[tied] = among[_stable_order(group, *ties(among))]
    return order


def _stable_order(*keys: torch.Tensor) -> torch.Tensor:
    """Order by the first key, then by the next; stable sorts from the last key to the first."""
    order = torch.argsort(keys[-1], stable=True)
    for key in reversed(keys[:-1]):
        order = order[torch.argsort(key[order], stable=True)]
    return order


def _rank_in_group(sorted_groups: torch.Tensor) -> torch.Tensor:
    """Place of each element in its run of equal values."""
    n = len(sorted_groups)
    place = torch.arange(n, device=sorted_groups.device)
    starts = torch.ones(n, dtype=torch.bool, device=sorted_groups.device)
    starts[1:] = sorted_groups[1:] != sorted_groups[:-1]
    return place - torch.where(starts, place, 0).cummax(0).values if n else place


def _select_across(columns: list[list[torch.Tensor]], index: torch.Tensor) -> list[torch.Tensor]:
    """`torch.cat(parts)[index]` of each column, without concatenating its parts."""
    selected = [parts[0].new_empty((len(index), *parts[0].shape[1:])) for parts in columns]
    start = 0
    for number, part in enumerate(columns[0]):
        place = ((index >= start) & (index < start + len(part))).nonzero().squeeze(1)
        for parts, into in zip(columns, selected, strict=True):
            into[place] = parts[number][index[place] - start]
        start += len(part)
    return selected


def _keys(
    component: torch.Tensor, row: torch.Tensor, position: torch.Tensor, seed: int | None
) -> Ties:
    """The keys that decide between firings of equal priority, as `_sorted_order` takes them."""

    def of(index: torch.Tensor) -> tuple[torch.Tensor, ...]:
        places = (row[index], position[index].long())
        if seed is None:
            return places
        return firing_priorities(position_hashes(seed, *places), component[index]), *places

    return of


class ReservoirSampler:
    """At most `k` firings for each component, those of lowest priority.

    The window of a kept firing stays in its slot until the firing is dropped; only priorities and
    places are sorted, and windows do not move until the sample is requested.

    Args:
        n_components: flat component indices are below this.
        k: firings kept of each component.
        width: tokens of a window.
        device: where the sample is kept.
        seed: of the random priorities that decide between firings of equal priority; None where
            the priorities are these. What is still equal is decided by row and position.
    """

    def __init__(
        self,
        n_components: int,
        k: int,
        width: int,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ) -> None:
        self.k = k
        self._seed = seed
        # The sorted firings, followed by those added since.
        self._held: list[_Held] = []
        self._n_sorted = 0
        self._n_held = 0
        self._windows = _Windows(width, min(n_components * k + _MIN_PENDING, _FIRST_SLOTS), device)
        self._n_of = torch.zeros(n_components, dtype=torch.int64, device=device)
        self._bound = torch.full((n_components,), _NOT_FULL if k else -1, device=device)

    @classmethod
    def of(
        cls,
        table: ExampleTable,
        n_components: int,
        k: int,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ) -> ReservoirSampler:
        """A sampler that continues from a table."""
        sampler = cls(n_components, k, table.token_ids.shape[1], device, seed)
        # A block at a time, so that tables in mapped files are never in memory as a whole.
        for start in range(0, len(table.row), _MIN_PENDING):
            sampler._hold(table.select(slice(start, start + _MIN_PENDING)).to(device))
        sampler._drop_losers()
        return sampler

    def add(
        self,
        component: torch.Tensor,
        priority: torch.Tensor,
        gather: Callable[[torch.Tensor], ExampleTable],
        draws: torch.Tensor | None = None,
    ) -> None:
        """Offer firings; most are dropped at once, before their windows are gathered.

        Args:
            component: int64 [n], flat component indices.
            priority: int64 [n].
            gather: returns the table rows of the firings at the given indices.
            draws: int64 [n], the random priorities of the sampler's seed, if it has one. Firings of
                a component with equal priorities and draws must be in order of row and position.
        """
        candidates = self.candidates(component, priority, draws)
        if len(candidates):
            self.keep(gather(candidates))

    @property
    def bound(self) -> torch.Tensor:
        """int64 [C]: a firing of a higher priority cannot be among the k lowest."""
        return self._bound

    def candidates(
        self, component: torch.Tensor, priority: torch.Tensor, draws: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Indices, int64, of the firings that may be among the k lowest; arguments as in `add`."""
        candidates = (priority <= self._bound[component]).nonzero().squeeze(1)
        # Few are kept for the time being where counting them would wait for a GPU.
        if len(candidates) < (_MIN_PENDING if component.is_cuda else 1):
            return candidates
        component, priority = component[candidates], priority[candidates]
        if int(torch.bincount(component).max()) > self.k:
            drawn = None if draws is None else draws[candidates]
            order = _sorted_order(
                component, priority, None if drawn is None else lambda tied: [drawn[tied]]
            )
            candidates = candidates[order[_rank_in_group(component[order]) < self.k]]
        return candidates

    def keep(self, rows: ExampleTable) -> None:
        """Add candidates; those that are not among the k lowest are dropped later."""
        self._hold(rows)
        pending = self._n_held - self._n_sorted
        if pending > max(_MIN_PENDING, self._n_sorted // 4) and int(self._n_of.max()) > self.k:
            self._drop_losers()

    def table(self) -> ExampleTable:
        """The sample, by component and priority."""
        return ExampleTable(*(column.clone() for column in self.borrowed_table()))

    def borrowed_table(self) -> ExampleTable:
        """The sample without a copy; valid until firings are offered again."""
        self._drop_losers()
        if not self._held:
            return ExampleTable.empty(self._windows.width, self._bound.device)
        held = self._held[0]
        self._windows.settle(held.slot)
        self._held = [held._replace(slot=torch.arange(self._n_held, device=held.slot.device))]
        return ExampleTable(*held[:-1], *self._windows.first(self._n_held))

    def host_table(self) -> ExampleTable:
        """The sample on the CPU, from a GPU without a second copy there."""
        self._drop_losers()
        if not self._bound.is_cuda or not self._held:
            return self.table().to("cpu")
        held = self._held[0]
        return ExampleTable(*map(to_host, held[:-1]), *self._windows.to_host(held.slot))

    @staticmethod
    def merge(tables: Iterable[ExampleTable], k: int, seed: int | None = None) -> ExampleTable:
        """The sample of everything that the samples were drawn from.

        Only the windows that are kept are read.

        Args:
            tables: in any order; at least one.
            k: rows kept of each component: those of lowest priority.
            seed: as of the samplers.

        Returns:
            The rows kept, by component and priority.
        """
        columns = [list(column) for column in zip(*tables, strict=True)]
        component, priority, row, position = (torch.cat(parts) for parts in columns[:4])
        order = _sorted_order(component, priority, _keys(component, row, position, seed))
        order = order[_rank_in_group(component[order]) < k]
        keys = (component[order], priority[order], row[order], position[order])
        return ExampleTable(*keys, *_select_across(columns[4:], order))

    def _hold(self, rows: ExampleTable) -> None:
        slot = self._windows.put(rows.token_ids, rows.ci_values, rows.component_acts)
        self._held.append(_Held(rows.component, rows.priority, rows.row, rows.position, slot))
        add_occurrences(self._n_of, rows.component)
        self._n_held += len(slot)

    def _drop_losers(self) -> None:
        if self._n_sorted == self._n_held:
            return
        held = _Held(*(torch.cat(columns) for columns in zip(*self._held, strict=True)))
        ties = _keys(held.component, held.row, held.position, self._seed)
        order = _sorted_order(held.component, held.priority, ties)
        rank = _rank_in_group(held.component[order])
        self._windows.free(held.slot[order[rank >= self.k]])
        kept = rank < self.k
        order, rank = order[kept], rank[kept]
        held = _Held(*(column[order] for column in held))
        full = rank == self.k - 1
        self._bound[held.component[full]] = held.priority[full]
        self._n_of = torch.bincount(held.component, minlength=len(self._n_of))
        self._held, self._n_held = [held], len(held.slot)
        self._n_sorted = self._n_held


class _Held(NamedTuple):
    """Firings that may be among the k lowest; columns as in `ExampleTable`."""

    component: torch.Tensor
    priority: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor
    slot: torch.Tensor  # int64 [n], of its window


class _Windows:
    """Windows in slots; those of dropped firings are reused.

    Args:
        width: tokens of a window.
        n_slots: initial number; on a CPU memory is used only as they are filled.
        device: of the windows.
    """

    def __init__(self, width: int, n_slots: int, device: torch.device | str) -> None:
        self.width = width
        self._used = 0
        self._free = torch.empty(0, dtype=torch.int64, device=device)
        self._columns = [
            torch.empty((n_slots, width), dtype=dtype, device=device)
            for dtype in (torch.int32, torch.float32, torch.float32)
        ]

    def put(self, *columns: torch.Tensor) -> torch.Tensor:
        """Store windows and return their slots, int64 [n]."""
        n = len(columns[0])
        reused = min(n, len(self._free))
        slots, self._free = self._free[:reused], self._free[reused:]
        start, self._used = self._used, self._used + n - reused
        if self._used > len(self._columns[0]):
            self._grow()
        for stored, column in zip(self._columns, columns, strict=True):
            stored[slots] = column[:reused]
            stored[start : self._used] = column[reused:]
        return torch.cat([slots, torch.arange(start, self._used, device=slots.device)])

    def free(self, slots: torch.Tensor) -> None:
        """Release slots for reuse."""
        self._free = torch.cat([self._free, slots])

    def settle(self, slots: torch.Tensor) -> None:
        """Move the windows in `slots` to the first slots, in this order; drop all others.

        Column by column, so that at most a third of the memory is duplicated.
        """
        if len(self._free) == 0 and bool((slots[1:] > slots[:-1]).all()):
            return
        for place, column in enumerate(self._columns):
            settled = torch.empty_like(column)
            torch.index_select(column, 0, slots, out=settled[: len(slots)])
            self._columns[place] = settled
        self._used, self._free = len(slots), self._free[:0]

    def to_host(self, slots: torch.Tensor) -> list[torch.Tensor]:
        """Copies on the CPU of the windows in `slots`, in this order."""
        return [to_host(column, rows=slots) for column in self._columns]

    def first(self, n: int) -> list[torch.Tensor]:
        """The first n slots."""
        return [column[:n] for column in self._columns]

    def _grow(self) -> None:
        for place, column in enumerate(self._columns):
            grown = column.new_empty((max(self._used, 2 * len(column)), self.width))
            grown[: len(column)] = column
            self._columns[place] = grown
