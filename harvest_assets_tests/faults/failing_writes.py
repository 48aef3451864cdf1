"""Each write to a file fails once, also those that libraries make: nothing on disk is harmed.

The kernel's answer is changed from outside (`strace --inject`), so Polars, PyArrow and torch meet
the error where they would meet it on a failing disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from harvest_assets_tests.faults.processes import be_child, in_child
from harvest_assets_tests.faults.small_harvest import SmallHarvest, contents

_CALLS = "write,pwrite64,writev"


@dataclass
class FailedWrites:
    """What was tried and what came of it."""

    tried: int = 0
    ended_badly: int = 0
    losses: list[str] = field(default_factory=list)


def fail_writes(folder: Path, step: int) -> FailedWrites:
    """Let each `step`-th write of a harvest over an older result fail, one at a time.

    Args:
        folder: of its own.
        step: 1 for every write.

    Raises:
        RuntimeError: processes cannot be traced here.
    """
    torch.set_num_threads(1)  # a forked child has no threads of its parent
    old, fresh = SmallHarvest(folder / "old", seed=7), SmallHarvest(folder / "right")
    in_child(old.run)
    in_child(fresh.run)
    before, right = contents(old.paths), contents(fresh.paths)
    harvest = SmallHarvest(folder / "work")
    done = FailedWrites()
    while True:
        n = 1 + done.tried * step
        shutil.rmtree(harvest.root, ignore_errors=True)
        shutil.copytree(old.root, harvest.root)
        failed, well = _run(harvest, n, folder / "log")
        if not failed:
            return done
        done.tried += 1
        done.ended_badly += not well
        found = contents(harvest.paths)
        if found.keys() != right.keys() or any(
            value not in (before[name], right[name]) for name, value in found.items()
        ):
            done.losses.append(f"write {n}: a file is neither the old nor the new one")
        in_child(harvest.run)
        if contents(harvest.paths) != right:
            done.losses.append(f"write {n}: the rerun ended with something else")


def _run(harvest: SmallHarvest, n: int, log: Path) -> tuple[bool, bool]:
    """Run where the n-th write fails; answers whether one failed and whether the run ended well."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        be_child(harvest.run)
    os.close(reading)
    inject = f"inject={_CALLS}:error=EIO:when={n}"
    tracer = subprocess.Popen(
        ["strace", "-qq", "-f", "-p", str(pid), "-o", log, "-e", f"trace={_CALLS}", "-e", inject],
        stderr=subprocess.DEVNULL,
    )
    try:
        status = Path(f"/proc/{pid}/status")
        while "TracerPid:\t0\n" in status.read_text():
            if tracer.poll() is not None:
                raise RuntimeError("strace cannot trace processes here")
            time.sleep(0.005)
    finally:
        os.close(writing)
        _, ended = os.waitpid(pid, 0)
        tracer.wait(timeout=20)
    return "(INJECTED)" in log.read_text(errors="replace"), ended == 0
