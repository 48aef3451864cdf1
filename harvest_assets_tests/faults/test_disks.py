"""Disks that are full, that may not be written, or that fail: nothing on them is harmed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from harvest_assets.errors import HarvestError
from harvest_assets.files.free_space import require_free
from harvest_assets.files.manifest import disagreements
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.preflight import require_disk, require_memory
from harvest_assets.store.resource_estimate import estimate_resources
from harvest_assets_tests.faults.small_harvest import LAYERS, VOCAB, SmallHarvest, contents


@contextmanager
def tmpfs(place: Path, options: str) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=60)


@pytest.fixture
def old(tmp_path: Path) -> SmallHarvest:
    harvest = SmallHarvest(tmp_path / "old", seed=7)
    harvest.run()
    return harvest


@pytest.fixture
def right(tmp_path: Path) -> dict[str, object]:
    harvest = SmallHarvest(tmp_path / "right")
    harvest.run()
    return contents(harvest.paths)


def seen_by_readers(harvest: SmallHarvest, *versions: dict[str, object]) -> None:
    found = contents(harvest.paths)
    assert len(found) == 5
    for name, value in found.items():
        assert any(value == version[name] for version in versions), name


@pytest.mark.slow
def test_a_disk_that_fills_up(tmp_path: Path, old: SmallHarvest, right: dict[str, object]):
    before = contents(old.paths)
    place, failed = tmp_path / "disk", 0
    with tmpfs(place, "size=4m"):
        for free in range(8192, 400_000, 24_576):
            root = place / "harvest"
            shutil.rmtree(root, ignore_errors=True)
            filler = place / "filler"
            filler.unlink(missing_ok=True)
            shutil.copytree(old.root, root)
            room = os.statvfs(place)
            filler.write_bytes(b"x" * (room.f_bavail * room.f_frsize - free))
            harvest = SmallHarvest(root)
            try:
                harvest.run()
            except Exception:  # noqa: BLE001  libraries have exceptions of their own for it
                failed += 1
            seen_by_readers(harvest, before, right)
            filler.unlink()
            harvest.run()
            assert contents(harvest.paths) == right
            assert disagreements(harvest.paths, deep=True) == []
    assert failed > 5


def test_a_disk_that_may_not_be_written(tmp_path: Path, old: SmallHarvest):
    before = contents(old.paths)
    place = tmp_path / "disk"
    with tmpfs(place, "size=4m"):
        shutil.copytree(old.root, place / "harvest")
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True, timeout=60)
        harvest = SmallHarvest(place / "harvest")
        with pytest.raises(OSError, match="Read-only"):
            harvest.run()
        assert contents(harvest.paths) == before


@pytest.mark.parametrize(
    ("call", "step"),
    [
        ("fsync", 17),
        ("replace", 11),
        ("link", 2),
        ("mkdir", 13),
        *(pytest.param(call, 3, marks=pytest.mark.slow) for call in ("fsync", "replace", "mkdir")),
        *(
            pytest.param(call, 1, marks=pytest.mark.rehearsal)
            for call in ("fsync", "replace", "mkdir")
        ),
    ],
)
def test_an_error_at_each_call(
    tmp_path: Path,
    old: SmallHarvest,
    right: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    step: int,
):
    """The n-th call fails, for each n that there is or for each `step`-th."""
    before = contents(old.paths)
    real = getattr(os, call)
    n, failing = 1 - step, True
    while failing:
        n += step
        count = 0

        def fails(*args, n: int = n, **kwargs):
            nonlocal count
            count += 1
            if count == n:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(*args, **kwargs)

        harvest = SmallHarvest(tmp_path / "work")
        shutil.rmtree(harvest.root, ignore_errors=True)
        shutil.copytree(old.root, harvest.root)
        with monkeypatch.context() as patched:
            patched.setattr(os, call, fails)
            try:
                harvest.run()
                failing = count >= n
            except OSError as error:
                assert error.errno == errno.EIO  # noqa: PT017  some are survived
        seen_by_readers(harvest, before, right)
        harvest.run()
        assert contents(harvest.paths) == right
    assert n > 1


def test_no_room_is_said_before_work_starts(tmp_path: Path):
    with pytest.raises(HarvestError, match=r"B free.*clean"):
        require_free(tmp_path / "not" / "there", 1 << 60)
    plan = SmallHarvest(tmp_path / "h").plan
    require_disk(tmp_path, estimate_resources(plan, sized(LAYERS, VOCAB), None), 2)
    large = estimate_resources(plan, sized([("a", 4_000_000)], 1_000_000), None)
    with pytest.raises(HarvestError, match=r"B free.* TB "):
        require_disk(tmp_path / "not" / "there", large, 2)


def test_a_deployment_may_try_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    plan = SmallHarvest(tmp_path / "h").plan
    large = estimate_resources(plan, sized([("a", 4_000_000)], 1_000_000), None)
    monkeypatch.setenv("HARVEST_ON_SHORTAGE", "warn")
    require_disk(tmp_path, large, 2)
    require_memory(torch.device("cpu"), plan, large)
    disk, memory = (record.getMessage() for record in caplog.records)
    assert str(tmp_path) in disk
    assert "of memory" in memory
    monkeypatch.setenv("HARVEST_ON_SHORTAGE", "refuse")
    with pytest.raises(HarvestError, match="of memory"):
        require_memory(torch.device("cpu"), plan, large)


def sized(layers: Sequence[tuple[str, int]], vocab_size: int) -> SimpleNamespace:
    """What a decomposition of this size says of itself."""
    return SimpleNamespace(
        n_components=sum(c for _, c in layers),
        vocab_size=vocab_size,
        tokens_per_forward=64,
        extra_bytes_per_token=0,
        weight_bytes=0,
    )


def test_what_no_memory_holds_is_refused_with_the_numbers(tmp_path: Path):
    cpu, plan = torch.device("cpu"), SmallHarvest(tmp_path / "h").plan

    def require(plan: HarvestPlan, layers: Sequence[tuple[str, int]], vocab_size: int) -> None:
        needs = estimate_resources(plan, sized(layers, vocab_size), None)
        require_memory(cpu, plan, needs)

    refused = r"about \d.* TB of memory.*counts .* TB.*B free.*--layers.*--no-cooccurrence"
    with pytest.raises(HarvestError, match=refused):
        require(plan, [("a", 1_000_000), ("b", 3_000_000)], 50_000)
    require(plan, LAYERS, VOCAB)
    many = [("a", 1_000_000)]
    with pytest.raises(HarvestError):
        require(plan, many, 1)
    require(plan.model_copy(update={"cooccurrence": False}), many, 1)
