"""The whole command, stopped by a signal in the middle of its shards, then started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.lease import is_held
from harvest_assets.files.manifest import disagreements
from harvest_assets_tests.faults.small_harvest import contents
from harvest_assets_tests.tiny_run import write_world

STATUSES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
# To the command alone, as from `kill`, or to its process group, as from a terminal.
CASES = [
    (signal.SIGINT, True),
    (signal.SIGTERM, False),
    (signal.SIGKILL, False),
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with data for several interruptions: the tests interrupt its harvest in turn."""
    return write_place(tmp_path_factory.mktemp("stopped"), 240)


def write_place(place: Path, repeats: int) -> Path:
    """A folder with a run; 80 repeats of its texts take a few seconds to harvest."""
    write_world(place / "world")
    texts = place / "world/dataset/train.parquet"
    pq.write_table(pa.concat_tables([pq.read_table(texts)] * repeats), texts)
    return place


def start(place: Path, out: str = "out", n_shards: int = 2) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HARVEST_", "DAGSTER_"))}
    options = ["--n-shards", str(n_shards), "--batch-size", "8"]
    return subprocess.Popen(
        [sys.executable, "-m", "harvest_assets", str(place / "world/tiny_run"), *options],
        env={**kept, "HOME": str(place), "SPD_OUT_DIR": str(place / out), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def layout_of(place: Path, out: str = "out") -> HarvestLayout:
    (folder,) = (place / out / "harvest").iterdir()
    return HarvestLayout(folder)


def wait_for_progress(process: subprocess.Popen[str], place: Path) -> None:
    """Until a shard that this command started has reported its progress."""
    begun, deadline = time.time(), time.monotonic() + 200
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        files = place.glob("out/harvest/*/shards/*/progress.json")
        if any(file.stat().st_mtime > begun for file in files):
            return
        time.sleep(0.02)
    pytest.fail("no shard began")


@pytest.mark.parametrize(("number", "group"), CASES)
def test_a_signal_saves_stops_and_is_said(place: Path, number: signal.Signals, *, group: bool):
    process = start(place)
    try:
        wait_for_progress(process, place)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        (os.killpg if group else os.kill)(process.pid, number)
        _, stderr = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == STATUSES[number]
    assert ("Stopped" in stderr) == (number != signal.SIGKILL)
    assert "Traceback" not in stderr
    # Nobody waits for the workers of a command that was killed: they end a little later.
    _, left = psutil.wait_procs(children, timeout=60 if number == signal.SIGKILL else 0)
    assert not left
    paths = layout_of(place)
    assert not any(is_held(lease) for lease in (paths.root / "leases").glob("*.json"))
    assert paths.shard_saved("00").exists() or paths.shard_saved("01").exists()
    assert not paths.components.exists()


def test_what_was_stopped_ends_like_what_never_was(place: Path):
    for out in ("out", "whole"):
        process = start(place, out)
        _, stderr = process.communicate(timeout=550)
        assert process.returncode == 0, stderr
    assert contents(layout_of(place)) == contents(layout_of(place, "whole"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_only_shard_is_stopped_and_continued(tmp_path: Path, number: signal.Signals):
    """One process works on all stages here; `SIGKILL` goes to that process alone."""
    place = write_place(tmp_path, 80)
    process = start(place, n_shards=1)
    try:
        wait_for_progress(process, place)
        (worker,) = psutil.Process(process.pid).children()
        if number == signal.SIGKILL:
            worker.kill()
        else:
            process.terminate()
        _, stderr = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert not worker.is_running()
    assert "Traceback" not in stderr
    paths = layout_of(place)
    assert not paths.components.exists()
    if number == signal.SIGKILL:
        assert process.returncode == 1
        assert str(paths.log("harvest-00")) in stderr
    else:
        assert process.returncode == 143
        assert paths.shard_saved("00").exists()
    process = start(place, n_shards=1)
    _, stderr = process.communicate(timeout=550)
    assert process.returncode == 0, stderr
    assert disagreements(paths, deep=True) == []
