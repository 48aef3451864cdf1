"""Milliseconds of each kernel on a GPU, and the rate at which it moves or computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.batches import Size, random_batch
from harvest_assets.harvester.accumulate import add_split_product
from harvest_assets.harvester.batch import Batch
from harvest_assets.harvester.gpu import passes
from harvest_assets.harvester.gpu.passes import FoundFirings
from harvest_assets.harvester.histogram import N_BINS
from harvest_assets.harvester.reservoir import ExampleTable
from harvest_assets.harvester.state import HarvesterSettings
from harvest_assets.settings import SampleSettings

_POSITIONS = 8192
_THRESHOLD = 1e-6
# To compare with what `passes` has.
_OTHER_BLOCKS = ((4, 512), (16, 512), (8, 256), (8, 1024))


@dataclass(frozen=True)
class KernelTime:
    """Median time of a kernel.

    Args:
        name: what it does.
        milliseconds: of one call.
        amount: bytes read and written, or multiplications and additions; 0: not counted.
        unit: of the rate, `TB/s` or `TFLOP/s`.
    """

    name: str
    milliseconds: float
    amount: float = 0
    unit: str = "TB/s"

    @property
    def rate(self) -> float:
        """In `unit`."""
        return self.amount / self.milliseconds / 1e9


def ceilings() -> list[KernelTime]:
    """What this GPU reaches at best: a large copy, a large bfloat16 product."""
    block = torch.rand(1 << 28, device="cuda")
    into = torch.empty_like(block)
    side = 8192
    factor = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    return [
        KernelTime("copy", milliseconds(lambda: into.copy_(block)), 2 * block.nbytes),
        KernelTime(
            "bfloat16 product", milliseconds(lambda: factor @ factor), 2 * side**3, "TFLOP/s"
        ),
    ]


def kernel_times(size: Size) -> list[KernelTime]:
    """Each step of `process_batch` for 8,192 positions, and the split product it replaces."""
    drawn = random_batch(size, 0, _POSITIONS // size.length, "cuda")
    settings = HarvesterSettings(
        layers=(("h", size.n_components),), vocab_size=size.vocab_size, sample=SampleSettings()
    )
    batch = Batch.of(settings, torch.device("cuda"), *drawn)
    del drawn
    ci = batch.ci.flatten(0, 1)
    found = passes.find_firings(ci, _THRESHOLD)
    find = KernelTime(
        "find and list firings",
        milliseconds(lambda: passes.find_firings(ci, _THRESHOLD)),
        ci.nbytes + 2 * found.fired.nbytes + 8 * len(found.position),
    )
    return [find, *_per_firing(batch, found), _cofirings(batch, found), *_output_mass(batch, found)]


def _per_firing(batch: Batch, found: FoundFirings) -> Iterator[KernelTime]:
    n_components, vocab = batch.settings.n_components, batch.settings.vocab_size
    histogram = torch.zeros(n_components, N_BINS, dtype=torch.int64, device="cuda")
    inputs = torch.zeros(n_components, vocab, dtype=torch.int32, device="cuda")

    def count() -> dict[str, torch.Tensor]:
        return passes.count_firings(batch, found.position, found.component, histogram, inputs)

    yield KernelTime("count firings, draw priorities", milliseconds(count))
    priority = count()["sample"]

    def copy() -> ExampleTable:
        return passes.windows(batch, found.component, found.position, priority)

    yield KernelTime("windows of all firings", milliseconds(copy))


def _cofirings(batch: Batch, found: FoundFirings) -> KernelTime:
    n_components = batch.settings.n_components
    count = torch.zeros(n_components, n_components, dtype=torch.int32, device="cuda")
    return KernelTime(
        "co-firings",
        milliseconds(lambda: passes.add_cofirings(count, found.fired)),
        _POSITIONS * n_components**2,
        "TFLOP/s",
    )


def _output_mass(batch: Batch, found: FoundFirings) -> Iterator[KernelTime]:
    probs, vocab = batch.output_probs.flatten(0, 1), batch.settings.vocab_size
    mass = torch.zeros((batch.settings.n_components, vocab), dtype=torch.float64, device="cuda")

    def timed(name: str, firings: FoundFirings, block: tuple[int, int] | None = None) -> KernelTime:
        return KernelTime(
            name,
            milliseconds(lambda: passes.add_output_mass(mass, probs, firings, block)),
            len(firings.position) * vocab * probs.element_size() + 2 * mass.nbytes,
        )

    yield timed("output mass", found)
    for block in _OTHER_BLOCKS:
        yield timed(f"output mass, {block[0]} x {block[1]} together", found, block)
    firing = batch.ci.flatten(0, 1) > _THRESHOLD
    yield KernelTime(
        "output mass as split products (plain PyTorch)",
        milliseconds(lambda: add_split_product(mass, firing, probs)),
    )
    always = batch.ci.flatten(0, 1).clone()
    always[:, :: always.shape[1] // 4] = 1
    found = passes.find_firings(always, _THRESHOLD)
    yield timed("output mass, four components fire everywhere", found)


def milliseconds(work: Callable[[], object], repeats: int = 9) -> float:
    """Median time on the device, after three calls that are not counted."""
    times: list[float] = []
    for repeat in range(3 + repeats):
        start, end = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        start.record()
        work()
        end.record()
        end.synchronize()
        if repeat >= 3:  # noqa: PLR2004
            times.append(start.elapsed_time(end))
    return median(times)
