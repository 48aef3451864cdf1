"""Processes that add and fold together, or end in the middle: nothing is lost or doubled."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.lease import hold_lease
from harvest_assets.interpretations import tables
from harvest_assets.interpretations.entries import Edit
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets_tests.interpretations.some_entries import KEYS, label, score


def _killed_at(nth: int, work) -> bool:
    """Run in a process of its own that is killed before its nth change to the disk."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def count_changes(event: str, args: tuple) -> None:
            nonlocal count
            writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wxa")
            if writes or event in ("os.rename", "os.remove", "os.link", "os.mkdir", "os.utime"):
                count += 1
                if count == nth:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count_changes)
        work()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def test_killed_before_each_change_while_adding_and_folding(paths: HarvestLayout):
    stored = Interpretations(paths)
    expected: list[str] = []

    def add_and_fold() -> None:
        stored.add([label(KEYS[0], f"new {nth}", nth), score(KEYS[0], "intruder", 0.5, nth)])
        stored.fold()

    nth, killed = 1, True
    while killed:
        assert nth < 60
        killed = _killed_at(nth, add_and_fold)
        history = stored.history()
        labels = history.labels["label"].to_list()
        assert history.problems == ()
        assert labels in (expected, [*expected, f"new {nth}"])
        assert len(history.scores) == len(labels)  # both kinds of an addition, or neither
        expected = labels
        nth += 1
    assert nth > 15
    assert len(labels) > 5
    left = [path for path in paths.root.rglob("*") if path.is_file()]
    assert sorted(path.name.partition("-")[0] for path in left) == ["labels", "scores"]


def _add_some(root: Path, name: str, n: int) -> None:
    stored = Interpretations(HarvestLayout(root))
    for i in range(n):
        stored.add([label(KEYS[0], f"{name} {i}"), Edit(KEYS[1], "note", f"{name} {i}", name)])


def _fold_until(root: Path, end: Path) -> None:
    stored = Interpretations(HarvestLayout(root))
    while not end.exists():
        try:
            stored.fold()
        except HarvestError:  # another has the lease
            time.sleep(0.001)


@pytest.mark.slow
def test_many_processes_add_while_others_fold(paths: HarvestLayout, tmp_path: Path):
    context, end = multiprocessing.get_context("spawn"), tmp_path / "end"
    adding = [context.Process(target=_add_some, args=(paths.root, f"p{i}", 15)) for i in range(4)]
    folding = [context.Process(target=_fold_until, args=(paths.root, end)) for _ in range(2)]
    for process in adding + folding:
        process.start()
    stored, seen = Interpretations(paths), 0
    while any(process.is_alive() for process in adding):
        history = stored.history()
        assert history.problems == ()
        assert len(history.labels) >= seen  # a reader never sees less than before
        seen = len(history.labels)
    end.touch()
    for process in adding + folding:
        process.join()
        assert process.exitcode == 0
    expected = sorted(f"p{i} {j}" for i in range(4) for j in range(15))
    assert sorted(stored.labels()["label"]) == expected
    assert sorted(json.loads(value) for value in stored.edits()["value"]) == expected


@pytest.mark.parametrize("folds", [1, 2])
def test_a_process_that_was_suspended_while_it_wrote_a_table_drops_nothing(
    paths: HarvestLayout, monkeypatch: pytest.MonkeyPatch, folds: int
):
    stored, write = Interpretations(paths), tables.write
    stored.add([label(KEYS[0], "first")])

    def suspended(path: Path, table: pa.Table) -> None:
        """While this table is written, the lease is taken over and later entries are folded."""
        monkeypatch.setattr(tables, "write", write)
        lease = paths.interpretations_lease
        mine = lease.read_bytes()
        for i in range(folds):
            lease.unlink()
            stored.add([label(KEYS[0], f"later {i}", i + 1)])
            _in_another_process(stored.fold)
            lease.write_bytes(mine)  # even if the check of the lease misses it
        write(path, table)

    monkeypatch.setattr(tables, "write", suspended)
    with pytest.raises(HarvestError, match="another process"):
        stored.fold()
    later = [f"later {i}" for i in range(folds)]
    assert stored.labels()["label"].to_list() == ["first", *later]
    stored.fold()
    stored.add([label(KEYS[0], "last", 10)])
    stored.fold()
    assert stored.labels()["label"].to_list() == ["first", *later, "last"]
    assert len(list(paths.interpretations.glob("labels-*"))) == 1


def _in_another_process(work: Callable[[], None]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def test_fold_leaves_the_work_to_the_owner_of_the_lease(paths: HarvestLayout):
    stored = Interpretations(paths)
    stored.add([label(KEYS[0], "kept")])
    with (
        hold_lease(paths.interpretations_lease, "it"),
        pytest.raises(HarvestError, match="process"),
    ):
        stored.fold()
    assert stored.labels()["label"].to_list() == ["kept"]
