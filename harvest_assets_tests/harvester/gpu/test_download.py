from __future__ import annotations

import numpy as np
import pytest
import torch

from harvest_assets.harvester.gpu import download
from harvest_assets.harvester.reservoir import ExampleTable, ReservoirSampler
from harvest_assets_tests.harvester.gpu import DEVICE


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "_BLOCK_BYTES", 100)
    monkeypatch.setattr(download, "_PACKED_ROWS", 4)


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (30, 7), (7,)])
def test_copies(shape: tuple[int, ...]):
    values = torch.arange(torch.Size(shape).numel(), dtype=torch.int32).view(shape)
    on_device = values.clone().to(DEVICE)
    copy = download.to_host(on_device)
    assert torch.equal(copy, values)
    on_device += 1
    assert torch.equal(copy, values), "the copy shares memory"
    assert download.counts_to_host(on_device).dtype == torch.uint8
    rows = torch.arange(len(values) - 1, -1, -2)
    assert torch.equal(download.to_host(values.to(DEVICE), rows=rows.to(DEVICE)), values[rows])


@pytest.mark.parametrize(("size", "highest"), [(1, 255), (4, 256), (11, 70_000)])
def test_the_upper_triangle(size: int, highest: int):
    counts = np.random.default_rng(0).integers(0, highest, (size, size), endpoint=True)
    counts[0, 0] = highest
    packed = download.pack_blocks(torch.from_numpy(counts).to(DEVICE))
    assert packed.tolist() == counts[np.triu_indices(size)].tolist()
    assert packed.element_size() == {255: 1, 256: 2, 70_000: 4}[highest]
    assert torch.equal(packed, download.upper_to_host(torch.from_numpy(counts)))


def test_windows_that_are_not_in_order():
    generator = torch.Generator().manual_seed(0)
    sampler = ReservoirSampler(4, 5, 3, DEVICE)
    component, priority = (torch.randint(4, (50,), generator=generator), torch.randperm(50))
    table = ExampleTable(
        component,
        priority,
        torch.arange(50),
        torch.arange(50).int(),
        torch.arange(150).view(50, 3).int(),
        torch.rand(50, 3, generator=generator),
        torch.rand(50, 3, generator=generator),
    ).to(DEVICE)
    for part in (slice(0, 20), slice(20, 50)):
        chosen = table.select(part)
        sampler.add(chosen.component, chosen.priority, chosen.select)
        sampler._drop_losers()
    slots = sampler._held[0].slot
    assert slots.tolist() != sorted(slots.tolist())
    found = [column.clone() for column in sampler._windows.to_host(slots)]
    for one, other in zip(found, sampler.table()[-3:], strict=True):
        assert torch.equal(one, other.cpu())
