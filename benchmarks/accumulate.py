"""Batch for batch, the harvester beside the dense yardstick, interleaved in one process."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from statistics import median

import torch
from torch.autograd.profiler import profile

from benchmarks.batches import Batch, Size, random_batch
from benchmarks.dense import DenseHarvester
from harvest_assets.harvester import Harvester
from harvest_assets.harvester.harvester import PHASES


@dataclass(frozen=True)
class Measured:
    """Seconds a batch, by phase; medians.

    Args:
        what: size and state of the sample.
        n_tokens: of a batch.
        ours: by phase; `all` is the whole batch, measured without the profiler.
        dense: the same of the yardstick; empty where it was left out.
        peak_bytes: of the process, or on a GPU of all tensors, those of the yardstick too.
    """

    what: str
    n_tokens: int
    ours: dict[str, float]
    dense: dict[str, float]
    peak_bytes: int


def measure(
    size: Size,
    k: int,
    *,
    warm_up: int,
    repeats: int,
    device: str,
    with_dense: bool,
    what: str,
    kernels: bool | None = None,
) -> Measured:
    """Time a batch after some others.

    Args:
        size: of a batch; it comes in groups of at most 8,192 tokens, as in a harvest.
        k: examples kept of each component.
        warm_up: batches before; 0 is cold.
        repeats: batches that are timed.
        device: where to accumulate.
        with_dense: time the yardstick too.
        what: for the table.
        kernels: as in `Harvester`.
    """
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    rows = max(1, min(size.rows, 8192 // size.length))
    groups = size.rows // rows
    dense = DenseHarvester(size, k, device) if with_dense else None
    ours = Harvester(
        [("h", size.n_components)],
        size.vocab_size,
        max_examples_per_component=k,
        device=device,
        kernels=kernels,
    )
    for index in range(warm_up * groups):
        batch = random_batch(size, index, rows, device)
        ours.process_batch(*batch)
        if dense is not None:
            dense.process_batch(batch)
    times: dict[str, list[dict[str, float]]] = {"ours": [], "dense": []}
    for repeat in range(repeats):
        parts: dict[str, list[dict[str, float]]] = {"ours": [], "dense": []}
        # The first pass is timed whole, the last one phase by phase.
        for group in range(groups):
            batch = random_batch(size, (warm_up + repeat) * groups + group, rows, device)
            parts["ours"].append(_time_ours(ours, batch, by_phase=repeat == repeats - 1))
            if dense is not None:
                parts["dense"].append(_time_dense(dense, batch))
        for who, seconds in parts.items():
            times[who].append(_sum(seconds))
    return Measured(
        what,
        groups * rows * size.length,
        _medians(times["ours"]),
        _medians(times["dense"]),
        _peak(device),
    )


def _synchronize(batch: Batch) -> None:
    if batch.ci.is_cuda:
        torch.cuda.synchronize()


def _time_ours(harvester: Harvester, batch: Batch, *, by_phase: bool) -> dict[str, float]:
    if by_phase:
        on_gpu = batch.ci.is_cuda
        with profile(use_device="cuda" if on_gpu else None) as events:
            harvester.process_batch(*batch)
        return {
            event.key: (event.device_time_total if on_gpu else event.cpu_time_total) / 1e6
            for event in events.key_averages()
            if event.key in PHASES
        }
    _synchronize(batch)
    started = time.perf_counter()
    harvester.process_batch(*batch)
    _synchronize(batch)
    return {"all": time.perf_counter() - started}


def _time_dense(dense: DenseHarvester, batch: Batch) -> dict[str, float]:
    dense.seconds.clear()
    dense.process_batch(batch)
    return {**dense.seconds, "all": sum(dense.seconds.values())}


def _sum(parts: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part[name] for part in parts) for name in (parts[0] if parts else {})}


def _medians(times: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for seconds in times for name in seconds)
    return {name: median(s[name] for s in times if name in s) for name in names}


def _peak(device: str) -> int:
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
