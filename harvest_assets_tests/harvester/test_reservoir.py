"""The sampler as a class of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harvest_assets.harvester import ReservoirSampler
from harvest_assets.harvester.reservoir import ExampleTable
from harvest_assets_tests.harvester.chance import chi_square_limits, inclusion_chi_square

N_COMPONENTS, WIDTH = 5, 3


def table_of(component, priority, row, position):
    """A table whose windows repeat the row and the position."""
    window = torch.stack([row, position, row + position], 1)
    return ExampleTable(
        component,
        priority,
        row,
        position.int(),
        window.int(),
        window.float(),
        window.float() / 2,
    )


def random_table(seed, n, n_priorities=2**62):
    """Firings at different places, in any order."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randperm(n, generator=generator)
    return table_of(
        torch.randint(N_COMPONENTS, (n,), generator=generator),
        torch.randint(-n_priorities, n_priorities, (n,), generator=generator),
        place // 32,
        place % 32,
    )


def lowest(table, k):
    """The k lowest by (priority, row, position) of each component, by sorting all of them."""
    entries = sorted(
        zip(
            table.component.tolist(),
            table.priority.tolist(),
            table.row.tolist(),
            table.position.tolist(),
            strict=True,
        )
    )
    kept = []
    for component in range(N_COMPONENTS):
        kept.extend([entry for entry in entries if entry[0] == component][:k])
    return kept


def entries_of(table):
    columns = (table.component, table.priority, table.row, table.position)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def offer(sampler, table):
    sampler.add(table.component, table.priority, table.select)


@pytest.mark.parametrize("k", [0, 1, 7, 10_000])
@pytest.mark.parametrize("n_batches", [1, 40])
def test_the_k_of_lowest_priority_stay(k, n_batches):
    table = random_table(0, 2000)
    sampler = ReservoirSampler(N_COMPONENTS, k, WIDTH)
    for part in torch.arange(2000).chunk(n_batches):
        offer(sampler, table.select(part))
    kept = sampler.table()
    assert entries_of(kept) == lowest(table, k)
    assert torch.equal(kept.token_ids[:, 2], kept.row + kept.position)
    assert torch.equal(kept.component_acts[:, 0], kept.row / 2)


def test_asking_for_the_sample_between_batches_changes_nothing():
    table = random_table(1, 2000)
    sampler = ReservoirSampler(N_COMPONENTS, 9, WIDTH)
    for part in torch.arange(2000).chunk(25):
        offer(sampler, table.select(part))
        seen = table.select(slice(0, int(part[-1]) + 1))
        assert entries_of(sampler.table()) == lowest(seen, 9)


@pytest.mark.parametrize("n_priorities", [2**62, 3])
@pytest.mark.parametrize("batch_size", [50, 300])
def test_merging_in_any_order_and_grouping(n_priorities, batch_size):
    """Also where priorities are equal: then the row and the position decide."""
    table = random_table(2, 1500, n_priorities)
    tables = []
    for start in range(0, 1500, 300):
        sampler = ReservoirSampler(N_COMPONENTS, 11, WIDTH)
        for batch in range(start, start + 300, batch_size):
            part = table.select(slice(batch, batch + batch_size))
            # A harvester offers the firings of a batch in the order of their places.
            offer(sampler, part.select((part.row * 32 + part.position).argsort()))
        tables.append(sampler.table())
    expected = lowest(table, 11)
    assert entries_of(ReservoirSampler.merge(tables, 11)) == expected
    assert entries_of(ReservoirSampler.merge(tables[::-1], 11)) == expected
    pairs = [ReservoirSampler.merge(tables[i : i + 2], 11) for i in (0, 2, 4)]
    assert entries_of(ReservoirSampler.merge(pairs, 11)) == expected


def test_going_on_from_a_table():
    table = random_table(3, 2000)
    first = ReservoirSampler(N_COMPONENTS, 8, WIDTH)
    offer(first, table.select(slice(0, 900)))
    going_on = ReservoirSampler.of(first.table(), N_COMPONENTS, 8)
    offer(going_on, table.select(slice(900, 2000)))
    assert entries_of(going_on.table()) == lowest(table, 8)
    assert entries_of(first.table()) == lowest(table.select(slice(0, 900)), 8)


def test_what_cannot_win_is_never_gathered():
    k, n_batches, size = 4, 100, 1000
    gathered = 0
    sampler = ReservoirSampler(N_COMPONENTS, k, WIDTH)
    for batch in range(n_batches):
        table = random_table(batch, size)

        def gather(index, table=table):
            nonlocal gathered
            gathered += len(index)
            return table.select(index)

        sampler.add(table.component, table.priority, gather)
        sampler.table()
    # The k lowest so far win in the n-th batch with a chance of about 1 / n.
    harmonic = sum(1 / n for n in range(1, n_batches + 1))
    assert gathered < 2 * N_COMPONENTS * k * harmonic


def test_a_component_without_firings_and_an_empty_batch():
    sampler = ReservoirSampler(N_COMPONENTS, 4, WIDTH)
    assert entries_of(sampler.table()) == []
    offer(sampler, random_table(0, 0))
    assert entries_of(sampler.table()) == []
    table = random_table(0, 50)
    table = table.select(table.component != 2)
    offer(sampler, table)
    assert entries_of(sampler.table()) == lowest(table, 4)
    assert 2 not in sampler.table().component


def test_random_priorities_make_a_uniform_sample():
    """10 of 100 firings, 40 of them in one batch and the others one by one; 500 trials."""
    counts = np.zeros(100)
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        sampler = ReservoirSampler(N_COMPONENTS, 10, WIDTH)
        for start, stop in [(0, 40), *((i, i + 1) for i in range(40, 100))]:
            place = torch.arange(start, stop).repeat_interleave(N_COMPONENTS)
            priority = torch.randint(2**62, place.shape, generator=generator)
            component = torch.arange(N_COMPONENTS).repeat(stop - start)
            offer(sampler, table_of(component, priority, place, place))
        counts += np.bincount(sampler.table().row, minlength=100)
    low, high = chi_square_limits(99)
    assert low < inclusion_chi_square(counts, 100 * N_COMPONENTS, 10) < high
