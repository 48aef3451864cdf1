"""GPUs are counted alike by processes with and without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.slurm.settings import needs_gpu
from harvest_assets.stages import Stage
from harvest_assets.system import gpus


def test_a_process_without_torch_counts_as_torch_does():
    program = (
        "import sys; from harvest_assets.system.gpus import count_gpus; "
        "print(count_gpus(), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [str(torch.cuda.device_count()), "False"]


@pytest.mark.parametrize(
    ("device", "usable", "first"),
    [
        ("", [0, 1], "cuda:0"),
        ("cuda", [0, 1], "cuda:0"),
        ("cuda:1", [1], "cuda:1"),
        ("cpu", [], "cpu"),
        ("cuda:2", [], "cpu"),
    ],
)
def test_the_device_chooses_among_the_gpus(
    device: str, usable: list[int], first: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gpus, "_count_found", lambda: 2)
    monkeypatch.setenv("HARVEST_DEVICE", device)
    assert gpus.usable_gpus() == usable
    assert gpus.count_gpus() == len(usable)
    assert gpus.first_device() == first
    if device == "cuda:2":
        with pytest.raises(HarvestError, match=r"cuda:2 .*cpu, cuda:0, cuda:1"):
            gpus.require_device()
    else:
        assert gpus.require_device() == usable


def test_cuda_is_refused_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpus, "_count_found", lambda: 0)
    monkeypatch.setenv("HARVEST_DEVICE", "cuda")
    with pytest.raises(HarvestError, match="cpu"):
        gpus.require_device()


def test_jobs_request_a_gpu_unless_the_cpu_was_chosen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HARVEST_DEVICE", "cuda")
    assert needs_gpu(Stage.HARVEST)
    assert not needs_gpu(Stage.MERGE)
    monkeypatch.setenv("HARVEST_DEVICE", "cpu")
    assert not needs_gpu(Stage.HARVEST)
