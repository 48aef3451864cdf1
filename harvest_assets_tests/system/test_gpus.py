"""GPUs are counted alike by processes with and without torch."""

from __future__ import annotations

import subprocess
import sys

import torch


def test_a_process_without_torch_counts_as_torch_does():
    program = (
        "import sys; from harvest_assets.system.gpus import count_gpus; "
        "print(count_gpus(), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [str(torch.cuda.device_count()), "False"]
