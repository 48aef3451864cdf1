"""Everything that is measured on a GPU, within five minutes and without network.

    python -m benchmarks.gpu FOLDER

Needs PyTorch with Triton and what `harvest_assets.harvester` imports; the kernels' tests also need
pytest. A part that fails is reported, and the others go on. FOLDER gets `gpu.json`, rewritten
after each part, and `gpu.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.accumulate import Measured, measure
from benchmarks.batches import SIZES, random_batch
from harvest_assets.harvester import Harvester

_SIMPLESTORIES, _PAPER = SIZES["simplestories-4l"], SIZES["paper"]
_ROOT = Path(__file__).parent.parent
_SECONDS = 280
# Columns of a table: a list of rows, the first of them the heading.
Rows = list[list[Any]]


def main(arguments: list[str] | None = None) -> int:
    """Measure; 1 if a part failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--seconds", type=float, default=_SECONDS, help="No part begins later than this."
    )
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU on this machine.")
    options.folder.mkdir(parents=True, exist_ok=True)
    return run(_PARTS, options.folder, options.seconds)


def run(parts: dict[str, Callable[[], Rows]], folder: Path, seconds: float) -> int:
    """Run the parts one after the other and write what they return."""
    started, report = time.monotonic(), {}
    for name, part in parts.items():
        begun = time.monotonic()
        entry: dict[str, Any] = {}
        if begun - started > seconds:
            entry["failure"] = "There was no time left for this part."
        else:
            try:
                entry["table"] = part()
            except Exception as error:  # noqa: BLE001 (the other parts go on)
                traceback.print_exc()
                entry["failure"] = f"{type(error).__name__}: {error}"
            _free_memory()
        entry["seconds"] = round(time.monotonic() - begun, 1)
        report[name] = entry
        (folder / "gpu.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (folder / "gpu.md").write_text(_markdown(report), encoding="utf-8")
        print(_markdown({name: entry}), flush=True)
    return int(any("failure" in entry for entry in report.values()))


def _free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _markdown(report: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, entry in report.items():
        lines += [f"## {name}", ""]
        for number, row in enumerate(entry.get("table", [])):
            lines.append("| " + " | ".join(map(_cell, row)) + " |")
            if number == 0:
                lines.append("|---" * len(row) + "|")
        if "failure" in entry:
            lines.append(f"Failed: {entry['failure']}")
        lines += ["", f"({entry['seconds']} s)", ""]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004


def machine() -> Rows:
    """The GPU, the versions, and the best rates that were reached on it."""
    import triton

    from benchmarks.kernel_times import ceilings

    device = torch.cuda.get_device_properties(0)
    return [
        ["what", "value"],
        ["GPU", f"{device.name}, {device.total_memory / 2**30:.0f} GiB"],
        ["PyTorch, Triton", f"{torch.__version__}, {triton.__version__}"],
        *([f"{t.name}, {t.unit}", t.rate] for t in ceilings()),
    ]


def tests(*arguments: str) -> Rows:
    """Tests that run on the GPU."""
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
    done = subprocess.run(
        command, cwd=_ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    lines = (done.stdout + done.stderr).strip().splitlines()
    if done.returncode:
        raise RuntimeError("\n".join(lines[-60:]))
    return [["pytest " + " ".join(arguments)], [lines[-1]]]


def agreement() -> Rows:
    """The check that each process makes before it uses the kernels."""
    from harvest_assets.harvester.gpu.choice import check_kernels

    started = time.perf_counter()
    check_kernels(torch.device("cuda"))
    first = time.perf_counter() - started
    check_kernels(torch.device("cuda"))
    again = time.perf_counter() - started - first
    return [["check", "seconds"], ["compiling included", first], ["again", again]]


def kernels(size_name: str) -> Rows:
    """Each kernel for 8,192 positions."""
    from benchmarks.kernel_times import kernel_times

    rows: Rows = [["for 8,192 tokens", "ms", "rate"]]
    for t in kernel_times(SIZES[size_name]):
        rows.append([t.name, t.milliseconds, f"{t.rate:.2f} {t.unit}" if t.amount else ""])
    return rows


def accumulate(size_name: str, k: int, warm_up: int, repeats: int) -> Rows:
    """With kernels, in plain PyTorch, and the dense program; then with its own peak of memory."""
    size = SIZES[size_name]

    def measured(*, kernels: bool, with_dense: bool) -> Measured:
        found = measure(
            size,
            k,
            warm_up=warm_up,
            repeats=repeats,
            device="cuda",
            with_dense=with_dense,
            what=size_name,
            kernels=kernels,
        )
        _free_memory()
        return found

    ours = measured(kernels=True, with_dense=False)
    rows: Rows = [[f"ms for {ours.n_tokens:,} tokens", "kernels", "plain PyTorch", "dense"]]
    columns = [ours.ours]
    peaks: list[Any] = [ours.peak_bytes / 2**30]
    try:
        plain = measured(kernels=False, with_dense=False)
        columns.append(plain.ours)
        peaks.append(plain.peak_bytes / 2**30)
        # In one process, batch for batch.
        columns.append(measured(kernels=True, with_dense=True).dense)
    except torch.OutOfMemoryError as error:
        rows.append([f"out of memory: {str(error).splitlines()[0]}", "", "", ""])
    _free_memory()
    for phase in dict.fromkeys(phase for column in columns for phase in column):
        times = [column[phase] * 1000 if phase in column else "" for column in columns]
        rows.append([phase, *times, *[""] * (3 - len(times))])
    rows.append(["peak memory, GiB", *peaks, *[""] * (3 - len(peaks))])
    return rows


def harvest() -> Rows:
    """A harvest of a random model of the SimpleStories size beside its bare forward pass."""
    from benchmarks.large_run import CHECKPOINT, CONFIG, SIMPLESTORIES_SHAPE, draw_rows, write_model
    from harvest_assets.decompositions.spd.model import open_model
    from harvest_assets.decompositions.spd.run_config import load_run_config
    from harvest_assets.harvester.stream import add_answer

    shape = SIMPLESTORIES_SHAPE
    with tempfile.TemporaryDirectory() as folder:
        run = write_model(Path(folder), shape, device="cuda")
        model = open_model(load_run_config(run / CONFIG), run / CHECKPOINT, "cuda")
    harvester = Harvester(model.layers, shape.vocab_size, device="cuda")
    times: dict[str, list[float]] = {"forward and CI alone": [], "the harvest": []}
    n_rows, warm_up = 16, 8
    rows = draw_rows(shape, n_rows * 32, np.random.default_rng(1))[:, : shape.n_ctx]
    for turn in range(32):
        tokens = torch.from_numpy(rows[turn * n_rows :][:n_rows]).cuda()
        begun = _now()
        answer = model(tokens)
        half = _now()
        add_answer(harvester, tokens, model(tokens), turn * n_rows)
        if turn >= warm_up:
            times["forward and CI alone"].append(half - begun)
            times["the harvest"].append(_now() - half)
    firings = float((answer.ci > 0).sum() / tokens.numel())
    medians = {name: median(seconds) for name, seconds in times.items()}
    bare = medians["forward and CI alone"]
    return [
        [f"{tokens.numel():,} tokens, {firings:.0f} firings each", "ms", "ratio"],
        *([name, seconds * 1000, seconds / bare] for name, seconds in medians.items()),
    ]


def saving(size_name: str) -> Rows:
    """Taking the state off the GPU."""
    size = SIZES[size_name]
    harvester = Harvester([("h", size.n_components)], size.vocab_size, device="cuda")
    for index in range(2):
        harvester.process_batch(*random_batch(size, index, 8192 // size.length, "cuda"))
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    begun = _now()
    harvester.build_results()
    seconds = _now() - begun
    more = torch.cuda.max_memory_allocated() - held
    return [
        ["GiB on the GPU", "seconds", "GB/s", "additional GiB on the GPU meanwhile"],
        [held / 2**30, seconds, held / seconds / 1e9, more / 2**30],
    ]


def _now() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


_PARTS: dict[str, Callable[[], Rows]] = {
    "Machine": machine,
    "Agreement with plain PyTorch": agreement,
    "Tests of the kernels": lambda: tests("harvest_assets_tests/harvester/gpu"),
    "Kernels, SimpleStories size": lambda: kernels(_SIMPLESTORIES.name),
    "Kernels, the paper's size": lambda: kernels(_PAPER.name),
    "Accumulating, SimpleStories size, steady (k = 100)": lambda: accumulate(
        _SIMPLESTORIES.name, 100, warm_up=8, repeats=3
    ),
    "Harvest beside the bare forward pass, SimpleStories size": harvest,
    "Accumulating, the paper's size, k = 100": lambda: accumulate(
        _PAPER.name, 100, warm_up=4, repeats=3
    ),
    "Accumulating, SimpleStories size, cold (k = 1000)": lambda: accumulate(
        _SIMPLESTORIES.name, 1000, warm_up=0, repeats=2
    ),
    "A state of SimpleStories size leaves the GPU": lambda: saving(_SIMPLESTORIES.name),
    "A state of the paper's size leaves the GPU": lambda: saving(_PAPER.name),
    "Tests of the harvester": lambda: tests("harvest_assets_tests/harvester", "-k", "cuda"),
}


if __name__ == "__main__":
    sys.exit(main())
