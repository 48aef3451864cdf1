"""Counts the GPUs that can be used."""

from __future__ import annotations

import subprocess
import sys
from functools import lru_cache

_QUESTION = "import torch; print(torch.cuda.device_count())"


def count_gpus() -> int:
    """Number of GPUs that PyTorch can use with this process's environment.

    A process that has not loaded torch, such as a daemon, asks another one.
    """
    torch = sys.modules.get("torch")
    return int(torch.cuda.device_count()) if torch is not None else _counted_elsewhere()


@lru_cache(maxsize=1)
def _counted_elsewhere() -> int:
    counted = subprocess.run(
        [sys.executable, "-c", _QUESTION], capture_output=True, text=True, check=True
    )
    return int(counted.stdout)
