"""Estimate what a harvest would do and need, without writing anything.

Files of a run on W&B are downloaded into the run cache, as the harvest itself would.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from harvest_assets.cli.where import Where
from harvest_assets.data.data import DataSample, DataSpec, sample_data
from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.decompositions.registry import verify
from harvest_assets.errors import HarvestError
from harvest_assets.files.free_space import free_bytes
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.settings import HarvestSettings
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.plan_change import shares_left
from harvest_assets.store.planning import make_plan
from harvest_assets.store.preflight import available_memory, require_disk, require_memory_here
from harvest_assets.store.registry import Registration
from harvest_assets.store.resource_estimate import ResourceEstimate, estimate_resources
from harvest_assets.store.time_estimate import MeasuredSeconds, TimeEstimate, estimate_time
from harvest_assets.system.gpus import count_gpus, first_device, require_device
from harvest_assets.wandb_client.run_files import fetch_run

if TYPE_CHECKING:
    import torch

_SECONDS_TIMED = 1.5
_GROUPS_TIMED = 9
_SECONDS_SLOW = 20.0  # a group that takes longer is timed once


@dataclass(frozen=True)
class DryRun:
    """The estimate.

    Args:
        registration: the run and its folder.
        checkpoint: its files, opened.
        plan: the settings, resolved.
        spec: its data.
        n_rows: rows that the dataset yields, about; None for a stream.
        device: where the model would run.
        n_devices: shards that work side by side, each on a device or its part of the cores.
        tokens_per_second: of all of them together, measured on a few rows.
        time: of each stage of the harvest; None for a whole stream.
        needs: bytes of that device's memory, and of disk.
        memory_without_gpu: bytes that a shard needs on a machine without a GPU.
        free_memory: bytes that the device has free.
        free_disk: bytes free where it would write.
    """

    registration: Registration
    checkpoint: Decomposition
    plan: HarvestPlan
    spec: DataSpec
    n_rows: int | None
    device: str
    n_devices: int
    tokens_per_second: float
    time: TimeEstimate | None
    needs: ResourceEstimate
    memory_without_gpu: int
    free_memory: int
    free_disk: int

    @property
    def n_batches(self) -> int | None:
        """Approximate number of batches harvested; None for a whole stream."""
        return _batches(self.plan, self.n_rows)


def dry_run(
    registration: Registration, settings: Mapping[str, Any], step: int | None, where: Where
) -> DryRun:
    """Open the run and its data, compute a few rows, and estimate what the harvest would take.

    Args:
        registration: the run and its folder.
        settings: of `HarvestSettings`, those that are not the default.
        step: of the checkpoint; None is the newest.
        where: the harvest would run; only this machine is checked.

    Raises:
        HarvestError: what the harvest itself would refuse, or a dataset too small for a batch.
    """
    if where == "here":
        require_device()
    import torch

    files = fetch_run(registration.reference, step)
    started = time.perf_counter()
    checkpoint = verify(files)
    opening = time.perf_counter() - started
    plan = make_plan(checkpoint, HarvestSettings(**settings))
    checkpoint = checkpoint.restricted(plan.layers)
    spec = checkpoint.data_spec(plan.context_length)
    sample = sample_data(spec)
    if len(sample.rows) == 0:
        raise HarvestError(
            f"{spec.dataset_name} yields no row of {spec.n_ctx} tokens in its first texts."
        )
    gpus = count_gpus()
    needs = estimate_resources(plan, checkpoint, sample.n_rows, on_gpu=gpus > 0)
    if where == "here":
        _require_this_machine(registration.layout, plan, checkpoint, sample, needs)
    device = torch.device(first_device())
    at_once = min(plan.n_shards, gpus) if gpus else 1
    pace = _measure_pace(checkpoint, plan, sample, device)
    speed = at_once * pace.tokens_per_second
    n_batches = _batches(plan, sample.n_rows)
    times = None
    if n_batches is not None:
        tokens = n_batches * plan.batch_size * plan.context_length
        tokenizing = sample.seconds_for(plan.n_rows_wanted)
        measured = MeasuredSeconds(opening, tokenizing, pace.opening, tokens / speed)
        times = estimate_time(measured, needs, plan.n_shards)
    return DryRun(
        registration=registration,
        checkpoint=checkpoint,
        plan=plan,
        spec=spec,
        n_rows=sample.n_rows,
        device=torch.cuda.get_device_name(device) if gpus else f"{os.cpu_count()} CPU cores",
        n_devices=at_once,
        tokens_per_second=speed,
        time=times,
        needs=needs,
        memory_without_gpu=estimate_resources(plan, checkpoint, sample.n_rows).memory(),
        free_memory=available_memory(device, leased=False),
        free_disk=free_bytes(registration.layout.root),
    )


def _require_this_machine(
    paths: HarvestLayout,
    plan: HarvestPlan,
    checkpoint: Decomposition,
    sample: DataSample,
    needs: ResourceEstimate,
) -> None:
    try:
        stored = HarvestPlan.open(paths.root)
    except HarvestError:
        stored = None
    streaming = checkpoint.data_spec(plan.context_length).streaming
    shares = shares_left(paths, stored, plan, sample.n_rows, streaming=streaming)
    require_memory_here(plan, checkpoint, shares)
    require_disk(paths.root, needs, len(shares))


def _batches(plan: HarvestPlan, n_rows: int | None) -> int | None:
    return plan.n_batches if n_rows is None else plan.batches_seen(n_rows)


class _Pace(NamedTuple):
    """Seconds until a shard has done its first rows, and its speed after that."""

    opening: float
    tokens_per_second: float


def _measure_pace(
    checkpoint: Decomposition, plan: HarvestPlan, sample: DataSample, device: torch.device
) -> _Pace:
    """Of one shard: rows through the model and the accumulator, the median of a few groups.

    Small groups are slow on a GPU, and a whole one takes seconds on a CPU: it is timed where a
    quarter of it is fast.
    """
    import torch

    from harvest_assets.harvester import Harvester
    from harvest_assets.harvester.stream import add_answer
    from harvest_assets.store.harvester_settings import harvester_settings

    opened = time.perf_counter()
    model = checkpoint.open_model(device, ci_noise=plan.ci_noise, bf16=plan.bf16)
    harvester = Harvester.from_settings(harvester_settings(plan, checkpoint), device)
    rows = torch.from_numpy(sample.rows[: plan.rows_per_forward(checkpoint.tokens_per_forward)])
    done = 0

    def seconds_of(group: torch.Tensor) -> float:
        nonlocal done
        started = time.perf_counter()
        add_answer(harvester, group, model(group.to(device)), done)
        harvester.first_bad_row()  # waits for the device
        done += len(group)
        return time.perf_counter() - started

    small, quarter = (rows[: max(1, len(rows) // share)] for share in (16, 4))
    seconds_of(small)
    opening = time.perf_counter() - opened
    warm = seconds_of(quarter)
    timed = rows if warm < _SECONDS_TIMED / 10 else quarter
    seconds: list[float] = []
    while warm < _SECONDS_SLOW and sum(seconds) < _SECONDS_TIMED and len(seconds) < _GROUPS_TIMED:
        seconds.append(seconds_of(timed))
    return _Pace(opening, timed.numel() / median(seconds or [warm]))
