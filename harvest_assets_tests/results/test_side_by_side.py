"""Work in threads: results in order, errors of any item, files independent of the threads."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import torch

from harvest_assets.errors import HarvestError
from harvest_assets.files.manifest import disagreements
from harvest_assets.results.side_by_side import in_order, n_threads
from harvest_assets_tests.faults.small_harvest import SmallHarvest


@pytest.fixture(params=[1, 2, 5])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(request.param)))
    return request.param


def test_results_come_in_order(cores: int):
    before = torch.get_num_threads()
    threads = set()

    def work(item: int) -> int:
        threads.add(threading.current_thread().name)
        time.sleep(0.001 * (item % 3))
        return item * item

    assert list(in_order(work, range(40))) == [item * item for item in range(40)]
    assert list(in_order(work, [])) == []
    assert len(threads) <= n_threads() == cores
    assert torch.get_num_threads() == before


def test_no_thread_runs_far_ahead(cores: int):
    begun = []
    results = in_order(begun.append, range(100))
    next(results)
    time.sleep(0.05)
    assert len(begun) <= cores + 1
    results.close()
    assert len(begun) <= cores + 1


def test_an_error_of_one_item_ends_the_work(cores: int):
    begun = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 3:
            raise HarvestError("item 3")

    with pytest.raises(HarvestError, match="item 3"):
        list(in_order(work, range(1000)))
    assert len(begun) <= 4 + cores


def test_files_do_not_depend_on_the_number_of_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("harvest_assets.results.merge._BLOCK_ENTRIES", 400)
    found = []
    for n in (1, 2, 7):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, n=n: set(range(n)))
        harvest = SmallHarvest(tmp_path / str(n) / "x-aaaaaaaa")
        harvest.run()
        folders = (harvest.paths.activation_contexts, harvest.paths.correlations)
        files = [file for folder in folders for file in folder.iterdir()]
        found.append({file.name: file.read_bytes() for file in files})
        assert disagreements(harvest.paths, deep=True) == []
    assert len(found[0]) == 9
    assert found[1:] == found[:1] * 2
