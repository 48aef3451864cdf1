"""Estimate what a harvest would do and need, without writing anything.

Files of a run on W&B are downloaded into the run cache, as the harvest itself would.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from harvest_assets.cli.pace import Pace, measure_pace
from harvest_assets.cli.where import Where
from harvest_assets.data.data import DataSample, DataSpec, sample_data
from harvest_assets.decompositions.protocol import Decomposition
from harvest_assets.decompositions.registry import verify
from harvest_assets.errors import HarvestError
from harvest_assets.files.free_space import free_bytes
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.settings import HarvestSettings
from harvest_assets.store.one_go import require_one_go
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.plan_change import shares_left
from harvest_assets.store.planning import make_plan
from harvest_assets.store.preflight import available_memory, require_disk, require_memory_here
from harvest_assets.store.registry import Registration
from harvest_assets.store.resource_estimate import ResourceEstimate, estimate_resources
from harvest_assets.store.shared_rows import SharedTokenRows
from harvest_assets.store.time_estimate import MeasuredSeconds, TimeEstimate, estimate_time
from harvest_assets.system.gpus import count_gpus, first_device, require_device
from harvest_assets.wandb_client.run_files import fetch_run


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
    started = perf_counter()
    checkpoint = verify(files)
    require_one_go(checkpoint, registration.layout)
    opening = perf_counter() - started
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
    shares = _shares_left(registration.layout, plan, checkpoint, sample)
    if where == "here":
        require_memory_here(plan, checkpoint, shares)
        require_disk(registration.layout.root, needs, len(shares))
    device = torch.device(first_device())
    at_once = min(plan.n_shards, gpus) if gpus else 1
    pace = measure_pace(checkpoint, plan, sample, device)
    needs = estimate_resources(
        plan,
        checkpoint,
        sample.n_rows,
        on_gpu=gpus > 0,
        firings_per_token=float(pace.firing_rates.sum()),
    )
    if where == "here" and shares:
        require_disk(registration.layout.root, needs, len(shares))
    speed = at_once * pace.tokens_per_second
    time = None
    if _batches(plan, sample.n_rows) is not None:
        tokenizing = _tokenizing_seconds(registration.layout, spec, plan, sample)
        time = _time(plan, checkpoint, sample, sum(shares), pace, speed, opening + tokenizing)
    return DryRun(
        registration=registration,
        checkpoint=checkpoint,
        plan=plan,
        spec=spec,
        n_rows=sample.n_rows,
        device=torch.cuda.get_device_name(device) if gpus else f"{os.cpu_count()} CPU cores",
        n_devices=at_once,
        tokens_per_second=speed,
        time=time,
        needs=needs,
        memory_without_gpu=estimate_resources(plan, checkpoint, sample.n_rows).memory(),
        free_memory=available_memory(device, leased=False),
        free_disk=free_bytes(registration.layout.root),
    )


def _shares_left(
    paths: HarvestLayout, plan: HarvestPlan, checkpoint: Decomposition, sample: DataSample
) -> list[int]:
    """Rows of each shard that is not harvested yet."""
    try:
        stored = HarvestPlan.open(paths.root)
    except HarvestError:
        stored = None
    streaming = checkpoint.data_spec(plan.context_length).streaming
    return shares_left(paths, stored, plan, sample.n_rows, streaming=streaming)


def _time(
    plan: HarvestPlan,
    checkpoint: Decomposition,
    sample: DataSample,
    rows_left: int,
    pace: Pace,
    speed: float,
    preparing: float,
) -> TimeEstimate:
    """The seconds of each stage, for the examples that components firing so often have."""
    n_rows = plan.batch_size * (_batches(plan, sample.n_rows) or 0)
    group = plan.rows_per_forward(checkpoint.tokens_per_forward)
    n_groups = -(-min(rows_left, n_rows) // group)  # the last one is filled up
    expected = pace.firing_rates * (n_rows * plan.context_length)
    n_examples = int(expected.clip(max=plan.activation_examples_per_component).sum())
    written = estimate_resources(plan, checkpoint, sample.n_rows, n_examples=n_examples)
    harvesting = n_groups * group * plan.context_length / speed
    return estimate_time(
        MeasuredSeconds(preparing, pace.opening, harvesting), written, plan.n_shards
    )


def _tokenizing_seconds(
    paths: HarvestLayout, spec: DataSpec, plan: HarvestPlan, sample: DataSample
) -> float:
    """Seconds to prepare the rows; 0 where the harvest has them already."""
    try:
        if SharedTokenRows.open(paths.root).are_of(spec, plan.n_rows_wanted):
            return 0.0
    except HarvestError:
        pass
    return sample.seconds_for(plan.n_rows_wanted)


def _batches(plan: HarvestPlan, n_rows: int | None) -> int | None:
    return plan.n_batches if n_rows is None else plan.batches_seen(n_rows)
