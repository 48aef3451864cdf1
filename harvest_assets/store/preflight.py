"""Whether memory suffices, checked before hours of work are spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import psutil
from rich.filesize import decimal

from harvest_assets.errors import HarvestError
from harvest_assets.store.resource_estimate import min_memory

if TYPE_CHECKING:
    import torch


def require_counts(
    device: torch.device, layers: Sequence[tuple[str, int]], vocab_size: int
) -> None:
    """Check that a device has memory for the counts; see `resource_estimate.min_memory`.

    Args:
        device: a CPU or a GPU.
        layers: names and numbers of components.
        vocab_size: width of the logits.

    Raises:
        HarvestError: it does not.
    """
    import torch

    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
    needed = min_memory(layers, vocab_size)
    if free < needed:
        where = torch.cuda.get_device_name(device) if on_gpu else "this machine"
        raise HarvestError(
            f"The counts of {sum(c for _, c in layers):,} components and {vocab_size:,} tokens "
            f"take {decimal(needed)} of memory, but {where} has {decimal(free)} free; "
            "harvest on a machine or GPU that has more."
        )
