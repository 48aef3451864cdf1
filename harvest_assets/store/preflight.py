"""Whether memory and disk suffice, checked before hours of work are spent."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from rich.filesize import decimal

from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.errors import HarvestError
from harvest_assets.files.free_space import require_free
from harvest_assets.settings import PreflightSettings
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.resource_estimate import (
    ResourceEstimate,
    estimate_resources,
    memory_to_ablate,
    memory_to_ask,
)
from harvest_assets.system.gpus import first_device, shards_at_once

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# The estimate may be that much too high; a harvest that may fit is not refused.
_MUST_FIT = 0.75


def require_memory(
    device: torch.device,
    plan: HarvestPlan,
    needs: ResourceEstimate,
    *,
    n_shards: int = 1,
    leased: bool = True,
) -> None:
    """Check that a device has memory for shards of a harvest.

    Args:
        device: a CPU or a GPU.
        plan: the settings, to say which of them would make it smaller.
        needs: of the harvest.
        n_shards: that work on the device side by side.
        leased: see `available_memory`.

    Raises:
        HarvestError: it does not, and shortages are refused.
    """
    available, needed = available_memory(device, leased=leased), needs.memory(n_shards)
    if needed * _MUST_FIT <= available:
        return
    side_by_side = f" for {n_shards} shards side by side" if n_shards > 1 else ""
    shortage = HarvestError(
        f"The harvest needs about {decimal(needed)} of memory{side_by_side} "
        f"({memory_parts(needs)}), but {_name(device)} has {decimal(available)} free; harvest on a "
        f"machine or GPU that has more, or less of the run: {_how_to_need_less(plan, n_shards)}."
    )
    _refuse_or_warn(shortage)


def require_memory_to_ask(
    device: torch.device, plan: HarvestPlan, checkpoint: Decomposition
) -> None:
    """Check that a device has memory to compute single rows of a harvest.

    Args:
        device: a CPU or a GPU.
        plan: the settings.
        checkpoint: the run, restricted to the layers of the plan.

    Raises:
        HarvestError: it does not, and shortages are refused.
    """
    needed, available = memory_to_ask(plan, checkpoint), available_memory(device, leased=True)
    if needed * _MUST_FIT <= available:
        return
    shortage = HarvestError(
        f"The model of {checkpoint.run} needs about {decimal(needed)} of memory (weights "
        f"{decimal(checkpoint.weight_bytes)}), but {_name(device)} has {decimal(available)} free; "
        "close what uses it, or choose another device with --device."
    )
    _refuse_or_warn(shortage)


def require_memory_to_ablate(checkpoint: Decomposition, n_tokens: int) -> None:
    """Check that this machine has memory to take components out of a model that is open.

    Args:
        checkpoint: the run, restricted to the layers of the plan.
        n_tokens: of the text.

    Raises:
        HarvestError: it does not, and shortages are refused.
    """
    import torch

    needed = memory_to_ablate(checkpoint, n_tokens)
    available = available_memory(torch.device("cpu"), leased=True)
    if needed * _MUST_FIT <= available:
        return
    shortage = HarvestError(
        f"Predictions of changed models of {checkpoint.run} for {n_tokens:,} tokens need about "
        f"{decimal(needed)} of memory, but this machine has {decimal(available)} free; close what "
        "uses it, or give a shorter text."
    )
    _refuse_or_warn(shortage)


def available_memory(device: torch.device, *, leased: bool) -> int:
    """Bytes that a device has for a harvest.

    Args:
        device: a CPU or a GPU.
        leased: whether the device is this process's already. If not, all memory of a GPU counts: a
            shard waits for those who use it.
    """
    import torch

    if device.type != "cuda":
        return psutil.virtual_memory().available
    free, total = torch.cuda.mem_get_info(device)
    return free if leased else total


def _name(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this machine"


def memory_parts(needs: ResourceEstimate) -> str:
    """What takes the memory of a shard, for messages."""
    return (
        f"weights {decimal(needs.weights)}, a group of rows {decimal(needs.working)}, "
        f"counts {decimal(needs.counts)}, examples {decimal(needs.examples)}"
    )


def _how_to_need_less(plan: HarvestPlan, n_shards: int) -> str:
    ways = ["--layers PATTERN"]
    if plan.cooccurrence:
        ways.append("--no-cooccurrence")
    if plan.activation_examples_per_component > 0:
        ways.append(
            "fewer or shorter examples (--activation_examples_per_component, "
            "--activation_context_tokens_per_side)"
        )
    if n_shards > 1:
        ways.append("fewer shards (--n_shards)")
    return ", ".join(ways)


def require_disk(folder: Path, needs: ResourceEstimate, n_shards: int) -> None:
    """Check that a folder's file system has room for so many shards and the results.

    Raises:
        HarvestError: it does not, and shortages are refused.
    """
    needed = needs.disk(n_shards)
    try:
        require_free(folder, needed, at_least=round(needed * _MUST_FIT))
    except HarvestError as shortage:
        _refuse_or_warn(shortage)


def _refuse_or_warn(shortage: HarvestError) -> None:
    if PreflightSettings.from_environment().on_shortage == "refuse":
        raise HarvestError(f"{shortage} HARVEST_ON_SHORTAGE=warn tries all the same.") from shortage
    logger.warning("%s", shortage)


def require_memory_here(
    plan: HarvestPlan, checkpoint: Decomposition, n_rows_of: Sequence[int]
) -> None:
    """Check that this machine has memory for the shards that will work on it.

    Args:
        plan: of the harvest.
        checkpoint: the run, restricted to the layers of the plan.
        n_rows_of: rows of each shard that has some left; see `shares_left`.

    Raises:
        HarvestError: it has not, and shortages are refused.
    """
    if not n_rows_of:
        return
    import torch

    device = torch.device(first_device())
    on_gpus = device.type == "cuda"
    needs = estimate_resources(plan, checkpoint, max(n_rows_of), on_gpu=on_gpus)
    at_once = 1 if on_gpus else min(len(n_rows_of), shards_at_once())
    require_memory(device, plan, needs, n_shards=at_once, leased=False)
