"""Counts the GPUs that can be used, and the shards that this machine has room for."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from harvest_assets.errors import HarvestError
from harvest_assets.settings import ComputeSettings

_QUESTION = "import torch; print(torch.cuda.device_count())"
# Of the drivers on Linux that PyTorch finds GPUs with: NVIDIA's, that of WSL, and AMD's.
_DEVICES = ("nvidia*", "dxg", "kfd")


def usable_gpus() -> list[int]:
    """The numbers of the GPUs that harvests may use here, as `HARVEST_DEVICE` chooses them.

    Raises:
        HarvestError: the variable is not valid.
    """
    device = ComputeSettings.from_environment().device
    if device == "cpu":
        return []
    _, _, number = device.partition(":")
    found = range(_count_found())
    return [gpu for gpu in found if not number or gpu == int(number)]


def require_device() -> list[int]:
    """The usable GPUs; none where the CPU is to be used.

    Raises:
        HarvestError: `HARVEST_DEVICE` or --device names a GPU that is not there.
    """
    gpus, device = usable_gpus(), ComputeSettings.from_environment().device
    if device.startswith("cuda") and not gpus:
        there = ", ".join(["cpu", *(f"cuda:{gpu}" for gpu in range(_count_found()))])
        raise HarvestError(
            f"{device} is not a device of this machine, which has {there}; choose one of these "
            "with --device or HARVEST_DEVICE."
        )
    return gpus


def first_device() -> str:
    """The first usable GPU, as PyTorch names it, or `cpu`."""
    return next((f"cuda:{gpu}" for gpu in usable_gpus()), "cpu")


def count_gpus() -> int:
    """Number of GPUs that harvests may use here."""
    return len(usable_gpus())


def _count_found() -> int:
    """Number of GPUs that PyTorch finds with this process's environment.

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
        [sys.executable, "-P", "-c", _QUESTION], capture_output=True, text=True, check=True
    )
    return int(counted.stdout)
