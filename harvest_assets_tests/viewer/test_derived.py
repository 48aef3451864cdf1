"""What pages compute: processes that fail or end with the server, and damaged folders."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import host_name, process_is_alive
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.viewer import derived as deriving
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.derived import Derived, Work, compute, folder_of
from harvest_assets.viewer.library import Library


@pytest.fixture
def cache(tmp_path: Path, paths: HarvestLayout, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; `paths` names the library that harvests are opened from."""
    assert paths.root.is_dir()
    monkeypatch.setattr(deriving, "viewer_cache_root", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def _wait(work: Work | Path) -> Work:
    assert isinstance(work, Work)
    deadline = time.monotonic() + 20
    while not work.ended and time.monotonic() < deadline:
        time.sleep(0.02)
    return work


@pytest.mark.usefixtures("cache")
def test_a_process_that_cannot_start_is_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    harvest, derived = Library().get("hostile"), Derived()
    for kind in ("map", "contexts", "map"):  # no failure takes one of the two slots
        assert _wait(derived.folder(harvest, kind)).ended
        with pytest.raises(HarvestError, match="No such file"):
            derived.folder(harvest, kind)


def test_closing_ends_processes_and_removes_what_they_began(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    program, pid_file = tmp_path / "program", tmp_path / "pid"
    unfinished = f"{cache}/hostile/.map.{host_name()}-$$-{'0' * 32}.tmp"
    program.write_text(f"#!/bin/sh\nmkdir {unfinished}\necho $$ > {pid_file}\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    derived = Derived()
    work = derived.folder(Library().get("hostile"), "map")
    while not pid_file.exists() or not pid_file.read_text():
        time.sleep(0.02)
    derived.close()
    assert not process_is_alive(int(pid_file.read_text()))
    assert _wait(work).ended
    assert list((cache / "hostile").iterdir()) == []


def test_a_process_ends_with_the_one_that_started_it(cache: Path):
    folder = folder_of(cache, Library().get("hostile"), "map")
    command = [sys.executable, "-P", "-m", deriving.__name__, "map", "hostile", str(folder)]
    ended = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (1, b"")


def test_temporary_folders_of_dead_servers_are_removed(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache.write_text("a file")
    monkeypatch.setattr(deriving.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(Derived, "_compute", lambda *_: None)
    dead = tmp_path / f".harvest_assets-viewer.{host_name()}-99999999-{'0' * 32}.tmp"
    other = dead.with_name(dead.name.replace("viewer", "else"))
    for folder in (dead, other):
        folder.mkdir()
    derived = Derived()
    derived.folder(Library().get("hostile"), "map")
    assert not dead.exists()
    assert other.exists()
    (mine,) = tmp_path.glob(".harvest_assets-viewer.*")
    assert mine.stat().st_mode & 0o777 == 0o700
    derived.close()
    assert not mine.exists()


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        ("map", "places", np.full(100_000, 999_999)),
        ("contexts", "firing_component", np.full(100_000, 999_999)),
    ],
)
def test_a_damaged_folder_is_computed_again(cache: Path, monkeypatch, kind, name, values):
    monkeypatch.setattr(Derived, "_compute", lambda *_: None)
    harvest = Library().get("hostile")
    client = TestClient(make_app(Library(), None), base_url="http://localhost")
    folder = folder_of(cache, harvest, kind)
    for status in (202, 404):  # a folder that is damaged once more is reported
        compute(harvest, kind, folder, lambda _: None)
        good = np.load(folder / f"{name}.npy")
        np.save(folder / f"{name}.npy", values[: len(good)])
        answer = client.get(
            f"/api/run/hostile/{kind}", params={"q": "<b>"} if kind != "map" else {}
        )
        assert answer.status_code == status
        assert folder.exists() == (status == 404)
    assert folder.name in answer.json()["error"]
    assert "pickle" not in answer.text
