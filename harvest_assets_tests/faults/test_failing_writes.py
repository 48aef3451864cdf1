"""Each write to a file fails once, also those that libraries make: nothing on disk is harmed.

The kernel's answer is changed from outside (`strace --inject`), so Polars, PyArrow and torch meet
the error where they would meet it on a failing disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch

from harvest_assets_tests.faults.kills import be_child, in_child
from harvest_assets_tests.faults.small_harvest import SmallHarvest, contents

CALLS = "write,pwrite64,writev"
STEP = 7

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]


def run_with_failing_write(harvest: SmallHarvest, n: int, log: Path) -> tuple[bool, bool]:
    """Run where the n-th write fails; answers whether one failed and whether the run ended well."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        be_child(harvest.run)
    os.close(reading)
    inject = f"inject={CALLS}:error=EIO:when={n}"
    tracer = subprocess.Popen(
        ["strace", "-qq", "-f", "-p", str(pid), "-o", log, "-e", f"trace={CALLS}", "-e", inject],
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 20
        status = Path(f"/proc/{pid}/status")
        while "TracerPid:\t0\n" in status.read_text() and time.monotonic() < until:
            if tracer.poll() is not None:
                pytest.skip("processes cannot be traced here")
            time.sleep(0.005)
    finally:
        os.close(writing)
        _, ended = os.waitpid(pid, 0)
        tracer.wait(timeout=20)
    return "(INJECTED)" in log.read_text(errors="replace"), ended == 0


def test_an_error_at_each_write(tmp_path: Path):
    torch.set_num_threads(1)  # a forked child has no threads of its parent
    old = SmallHarvest(tmp_path / "old", seed=7)
    in_child(old.run)
    fresh = SmallHarvest(tmp_path / "right")
    in_child(fresh.run)
    before, right = contents(old.paths), contents(fresh.paths)
    n, ended_badly = 1, 0
    while True:
        harvest = SmallHarvest(tmp_path / "work")
        shutil.rmtree(harvest.root, ignore_errors=True)
        shutil.copytree(old.root, harvest.root)
        failed, well = run_with_failing_write(harvest, n, tmp_path / "log")
        if not failed:
            assert well
            break
        ended_badly += not well
        found = contents(harvest.paths)
        assert len(found) == len(right)
        for name, value in found.items():
            assert value in (before[name], right[name]), (n, name)
        in_child(harvest.run)
        assert contents(harvest.paths) == right, n
        n += STEP
    assert ended_badly > 3
