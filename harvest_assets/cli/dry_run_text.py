"""Prints the result of a dry run."""

from __future__ import annotations

from datetime import timedelta

from rich.console import Console
from rich.filesize import decimal

from harvest_assets.cli.dry_run import DryRun
from harvest_assets.store.preflight import memory_parts


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
        ("", f"{decimal(result.free_disk)} are free in {result.registration.layout.root.parent}"),
        ("time", _duration(result)),
        ("results", f"{result.registration.layout.root} (nothing was written)"),
        *(("warning", it) for it in checkpoint.warnings(plan.ci_threshold, plan.context_length)),
    ]


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


def _duration(result: DryRun) -> str:
    speed = f"{result.tokens_per_second:,.0f} tokens/s, measured on a few rows"
    if result.seconds is None:
        return f"not known for a whole stream ({speed})"
    return f"about {timedelta(seconds=max(1, round(result.seconds)))} ({speed})"
