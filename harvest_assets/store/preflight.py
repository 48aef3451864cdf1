"""Whether memory suffices, checked before hours of work are spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
from rich.filesize import decimal

from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.errors import HarvestError
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.resource_estimate import min_memory

if TYPE_CHECKING:
    import torch


def require_counts(device: torch.device, plan: HarvestPlan, checkpoint: Decomposition) -> None:
    """Check that a device has memory for the counts; see `resource_estimate.min_memory`.

    Args:
        device: a CPU or a GPU.
        plan: the settings.
        checkpoint: the run, restricted to the layers of the plan.

    Raises:
        HarvestError: it does not.
    """
    import torch

    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
    needed = min_memory(plan, checkpoint)
    if free < needed:
        where = torch.cuda.get_device_name(device) if on_gpu else "this machine"
        raise HarvestError(
            f"The counts of {checkpoint.n_components:,} components and "
            f"{checkpoint.vocab_size:,} tokens take {decimal(needed)} of memory, but {where} has "
            f"{decimal(free)} free; "
            "harvest on a machine or GPU that has more, or less of the run with --layers and "
            "--no-cooccurrence."
        )
