"""GPUs are shared by leases; here they are pretended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harvest_assets.orchestration import gpu_lease as gpus

GPUS = ["GPU-aa", "GPU-bb"]
_HOLD = """
import sys
from pathlib import Path
from harvest_assets.orchestration.gpu_lease import lease_one
with lease_one(sys.argv[2:], lambda line: None, Path(sys.argv[1])) as number:
    print(number, flush=True)
    sys.stdin.read()
"""


def hold(locks: Path, *seen: str) -> subprocess.Popen[str]:
    """Another process, which sees some GPUs and holds one until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(locks), *seen],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def holds(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


@pytest.mark.timeout(60)
def test_processes_never_share_one_and_wait_while_all_are_taken(tmp_path: Path):
    first, second = (hold(tmp_path, *GPUS) for _ in range(2))
    assert {holds(first), holds(second)} == {0, 1}
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        if "all 2 visible" in line:
            first.kill()  # a lease ends with its process, however that ends

    with gpus.lease_one(GPUS, log, tmp_path) as third:
        assert GPUS[third] in lines[-1]
    assert "all 2 visible" in lines[0]
    second.communicate()
    first.communicate()


@pytest.mark.timeout(60)
def test_a_gpu_is_known_under_whatever_number_it_is_seen(tmp_path: Path):
    other = hold(tmp_path, "GPU-bb")  # as with CUDA_VISIBLE_DEVICES=1
    assert holds(other) == 0
    with gpus.lease_one(GPUS, print, tmp_path) as number:
        assert number == 0
    other.communicate()
    with gpus.lease_one(["GPU-bb", "GPU-aa"], print, tmp_path) as number:
        assert number == 0


def test_the_device_is_the_leased_gpu_else_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpus, "_LOCKS", tmp_path)
    monkeypatch.setattr(gpus, "visible_gpus", dict)
    with gpus.lease_device(print) as device:
        assert device == torch.device("cpu")
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(gpus, "visible_gpus", lambda: dict(enumerate(GPUS)))
    with gpus.lease_device(print) as one, gpus.lease_device(print) as other:
        assert (one, other) == (torch.device("cuda", 0), torch.device("cuda", 1))
    assert taken == [0, 1]
    monkeypatch.setattr(gpus, "visible_gpus", lambda: {3: GPUS[1]})  # HARVEST_DEVICE=cuda:3
    with gpus.lease_device(print) as chosen:
        assert chosen == torch.device("cuda", 3)
