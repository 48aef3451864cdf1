"""Counts the GPUs that can be used, and the shards that this machine has room for."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

_QUESTION = "import torch; print(torch.cuda.device_count())"
# Of the drivers on Linux that PyTorch finds GPUs with: NVIDIA's, that of WSL, and AMD's.
_DEVICES = ("nvidia*", "dxg", "kfd")


def count_gpus() -> int:
    """Number of GPUs that PyTorch can use with this process's environment.

    A process that has not loaded torch, such as a daemon, asks another one, if there is a driver.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.cuda.device_count())
    return _counted_elsewhere() if _has_driver() else 0


def shards_at_once() -> int:
    """Number of shards this machine harvests in parallel: one per GPU, else one per core."""
    return count_gpus() or os.cpu_count() or 1


def _has_driver() -> bool:
    devices = Path("/dev")
    return sys.platform != "linux" or any(any(devices.glob(name)) for name in _DEVICES)


@lru_cache(maxsize=1)
def _counted_elsewhere() -> int:
    counted = subprocess.run(
        [sys.executable, "-c", _QUESTION], capture_output=True, text=True, check=True
    )
    return int(counted.stdout)
