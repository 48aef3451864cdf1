"""Tables with bars."""

from __future__ import annotations

from rich.bar import Bar
from rich.table import Table

from benchmarks.accumulate import Measured
from benchmarks.merging import MergeMeasured
from benchmarks.sizes import SizeMeasured
from benchmarks.stages import StagesMeasured
from benchmarks.watched import Step
from benchmarks.whole import WholeMeasured

_MEGA, _GIGA = 1e6, 1e9
_COLOURS = {"dense": "red", "ours": "green"}


def accumulation_table(measured: Measured) -> Table:
    """Seconds by phase, ours beside the yardstick."""
    table = Table(
        title=f"{measured.what}: milliseconds a batch of {measured.n_tokens:,} tokens",
        title_justify="left",
        caption=f"peak memory {measured.peak_bytes / 2**30:.1f} GiB",
    )
    for name in ("phase", "dense", "ours", "ratio"):
        table.add_column(name, justify="left" if name == "phase" else "right")
    table.add_column("", width=36)
    longest = max([*measured.ours.values(), *measured.dense.values()])
    for phase in dict.fromkeys([*measured.dense, *measured.ours]):
        found = {"dense": measured.dense.get(phase), "ours": measured.ours.get(phase)}
        dense, ours = found["dense"], found["ours"]
        ratio = f"{dense / ours:.1f}x" if dense and ours else ""
        bars = Table.grid()
        for who, seconds in found.items():
            if seconds is not None:
                bars.add_row(Bar(longest, 0, seconds, width=36, color=_COLOURS[who]))
        table.add_row(phase, *(_milliseconds(seconds) for seconds in found.values()), ratio, bars)
    return table


def merge_table(measured: MergeMeasured) -> Table:
    """Seconds, speed and memory of each step."""
    size = measured.size
    table = Table(
        title=f"merge of {size.n_shards} shards: {size.n_components:,} components, "
        f"{size.k:,} examples of each, vocabulary {size.vocab_size:,}",
        title_justify="left",
    )
    for name in ("step", "seconds", "CPU seconds", "MB", "MB/s", "MB/s a core", "memory, MB"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for step, seconds in measured.seconds.items():
        written = measured.written.get(step)
        peak = measured.peak_bytes.get(step)
        cpu_seconds = measured.cpu_seconds.get(step)
        table.add_row(
            step,
            _seconds(seconds),
            "" if cpu_seconds is None else _seconds(cpu_seconds),
            "" if written is None else f"{written / _MEGA:,.0f}",
            "" if written is None else f"{written / _MEGA / seconds:,.0f}",
            "" if not (written and cpu_seconds) else f"{written / _MEGA / cpu_seconds:,.0f}",
            "" if peak is None else f"{peak / _MEGA:,.0f}",
        )
    return table


def whole_table(measured: WholeMeasured) -> Table:
    """Milliseconds and speed, with and without counting."""
    table = Table(title=measured.what, title_justify="left")
    for name in ("", "ms a group", "tokens/s", "ratio"):
        table.add_column(name, justify="right" if name else "left")
    for what, seconds in (
        ("forward and CI alone", measured.forward),
        ("the harvest", measured.harvest),
    ):
        table.add_row(
            what,
            f"{seconds * 1000:,.1f}",
            f"{measured.n_tokens / seconds:,.0f}",
            f"{seconds / measured.forward:.2f}",
        )
    return table


def _seconds(seconds: float) -> str:
    return f"{seconds:,.4f}" if seconds < 1 else f"{seconds:,.1f}"


def stages_table(measured: StagesMeasured) -> Table:
    """Seconds of each stage, and of all of them."""
    table = Table(title=measured.what, title_justify="left")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    table.add_column("", width=36)
    longest = max(measured.seconds.values())
    for stage, seconds in measured.seconds.items():
        table.add_row(stage, f"{seconds:,.2f}", Bar(longest, 0, seconds, width=36, color="green"))
    table.add_row("all", f"{measured.whole:,.2f}")
    return table


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:,.1f}"


def sizes_table(name: str, measured: SizeMeasured) -> Table:
    """Seconds and memory of each step; of equal ones the longest."""
    size = measured.size
    table = Table(
        title=f"size {name}: {size.n_shards} shards, {size.n_components:,} components, "
        f"{size.silent:.0%} silent, vocabulary {size.vocab_size:,}, {size.k:,} examples",
        title_justify="left",
        caption=f"at most {measured.disk / _GIGA:.1f} GB of disk",
    )
    for name_ in ("step", "seconds", "CPU seconds", "memory, MB", "result"):
        table.add_column(name_, justify="left" if name_ in ("step", "result") else "right")
    longest: dict[str, Step] = {}
    for step in measured.steps:
        if step.what not in longest or longest[step.what].seconds < step.seconds:
            longest[step.what] = step
    for step in longest.values():
        cpu = "" if step.cpu_seconds is None else _seconds(step.cpu_seconds)
        memory = f"{step.memory / _MEGA:,.0f}"
        table.add_row(step.what, _seconds(step.seconds), cpu, memory, step.note)
    return table


def step_line(step: Step) -> str:
    """A step that is done, in a line."""
    cpu = "" if step.cpu_seconds is None else f", {_seconds(step.cpu_seconds)} s of CPU"
    return f"{step.what}: {_seconds(step.seconds)} s{cpu}, {step.memory / _MEGA:,.0f} MB"
