"""Prints the result of a dry run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.filesize import decimal

from harvest_assets.cli.dry_run import DryRun
from harvest_assets.settings import ALL_ROWS
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.preflight import memory_parts
from harvest_assets.store.registry import Registration
from harvest_assets.store.resource_estimate import ResourceEstimate
from harvest_assets.store.time_estimate import TimeEstimate

_SHOWN_AS_SECONDS = 120


def print_dry_run(result: DryRun, console: Console) -> None:
    """Print what a harvest would do and need, a line each."""
    for what, value in _lines(result):
        console.print(f"{what:<14}{value}", highlight=False, markup=False, soft_wrap=True)


def _lines(result: DryRun) -> list[tuple[str, str]]:
    checkpoint, plan, needs = result.checkpoint, result.plan, result.needs
    widest = max(len(layer) for layer, _ in checkpoint.layers)
    layers = [("", f"{layer:<{widest}}  {c:>8,}") for layer, c in checkpoint.layers]
    step = "" if checkpoint.step is None else f", step {checkpoint.step}"
    side_by_side = f", {result.n_devices} side by side" if result.n_devices > 1 else ""
    on_cpu = result.memory_without_gpu
    without_gpu = [("", f"about {decimal(on_cpu)} without a GPU")] * (on_cpu != needs.memory())
    peak = decimal(needs.disk(plan.n_shards))
    return [
        ("run", f"{result.registration.key}{step}"),
        ("model", checkpoint.model_name()),
        ("components", f"{checkpoint.n_components:,} in {len(checkpoint.layers)} layers"),
        *layers,
        ("vocabulary", f"{checkpoint.vocab_size:,}"),
        ("data", f"{result.spec.dataset_name}, split {result.spec.train_data_split}"),
        ("rows", _rows(result)),
        ("batches", _batches(result)),
        ("shards", f"{plan.n_shards}{side_by_side}"),
        ("device", result.device),
        ("memory", f"about {decimal(needs.memory())} a shard: {memory_parts(needs)}"),
        ("", f"{decimal(result.free_memory)} are free on this machine"),
        *without_gpu,
        ("disk", f"about {decimal(needs.results)} of results, {peak} at the peak"),
        *_firings(plan, needs),
        ("", f"{decimal(result.free_disk)} are free in {result.registration.layout.root.parent}"),
        *_times(result),
        ("results", f"{result.registration.layout.root} (nothing was written)"),
        *(("warning", it) for it in checkpoint.warnings(plan.ci_threshold, plan.context_length)),
    ]


def _firings(plan: HarvestPlan, needs: ResourceEstimate) -> list[tuple[str, str]]:
    """The size of every firing, where they are kept."""
    if not plan.keep_firings:
        return []
    whose = "all" if plan.keep_firings == ALL_ROWS else f"the first {plan.keep_firings:,}"
    size = f"about {decimal(needs.firings)}" if needs.firings else "of unknown size"
    return [("", f"and {size} of every firing of {whose} rows, at the peak in two copies")]


def _rows(result: DryRun) -> str:
    there = "a stream" if result.n_rows is None else f"about {result.n_rows:,} available"
    return f"of {result.plan.context_length:,} tokens; {there}"


def _batches(result: DryRun) -> str:
    n, plan = result.n_batches, result.plan
    if n is None:
        return f"of {plan.batch_size:,} rows, until the stream ends"
    tokens = n * plan.batch_size * plan.context_length
    short = f"; {plan.n_batches:,} were requested" if plan.n_batches not in (None, n) else ""
    return f"{n:,} of {plan.batch_size:,} rows, {tokens:,} tokens{short}"


def _times(result: DryRun) -> list[tuple[str, str]]:
    """The seconds of each stage, below their sum."""
    speed = f"{result.tokens_per_second:,.0f} tokens/s, measured on a few rows"
    times = result.time
    if times is None:
        return [("time", f"not known for a whole stream ({speed})")]
    low, high = times.range
    busy = "; this machine is busy" if times.crowding > 1 else ""
    stages = [
        ("starting", times.start, "processes, libraries"),
        ("preparing", times.prepare, "the run is verified, its data tokenized"),
        ("harvesting", times.harvest, speed),
        ("merging", times.merge, "results are written and checked"),
    ]
    widest = max(len(_clock(seconds)) for _, seconds, _ in stages)
    return [
        ("time", f"about {_clock(times.total)}, between {_clock(low)} and {_clock(high)}{busy}:"),
        *(("", f"{what:<12}{_clock(it):>{widest}}  {why}") for what, it, why in stages),
    ]


def _clock(seconds: float) -> str:
    """Seconds below two minutes, else hours, minutes and seconds."""
    if seconds < _SHOWN_AS_SECONDS:
        return f"{max(1, round(seconds))} s"
    return str(timedelta(seconds=round(seconds)))


def dry_run_record(result: DryRun) -> dict[str, Any]:
    """The result as JSON."""
    checkpoint, plan, needs, times = result.checkpoint, result.plan, result.needs, result.time
    return {
        "key": result.registration.key,
        "run": plan.run,
        "path": str(result.registration.layout.root),
        "step": checkpoint.step,
        "model": checkpoint.model_name(),
        "layers": dict(checkpoint.layers),
        "vocab_size": checkpoint.vocab_size,
        "settings": plan.flat(),
        "dataset": result.spec.dataset_name,
        "rows_available": result.n_rows,
        "n_batches": result.n_batches,
        "device": result.device,
        "side_by_side": result.n_devices,
        "memory_bytes": needs.memory(),
        "free_memory_bytes": result.free_memory,
        "result_bytes": needs.results,
        "firing_bytes": needs.firings,
        "disk_bytes": needs.disk(plan.n_shards),
        "free_disk_bytes": result.free_disk,
        "tokens_per_second": result.tokens_per_second,
        "seconds": None if times is None else _seconds(times),
        "seconds_between": None if times is None else times.range,
        "warnings": checkpoint.warnings(plan.ci_threshold, plan.context_length),
    }


def finished_record(registration: Registration) -> dict[str, Any]:
    """As `dry_run_record`, of a harvest to which nothing would be done; without an estimate."""
    return {
        "key": registration.key,
        "run": registration.reference.name.key,
        "path": str(registration.layout.root),
        "seconds": _seconds(TimeEstimate(0.0, 0.0, 0.0, 0.0)),
        "warnings": [],
    }


def _seconds(times: TimeEstimate) -> dict[str, float]:
    return {**times.stages, "total": times.total}
