"""What is measured of a whole harvest: its stages, one after another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.large_run import SIMPLESTORIES_SHAPE, Shape

# Random runs of several sizes; the last has that of the paper's.
SHAPES = {
    "small": Shape(
        n_layer=2,
        width=64,
        n_head=4,
        inner=256,
        vocab_size=1024,
        n_ctx=64,
        components=(("mlp.c_fc", 250), ("mlp.down_proj", 250)),
        ci_width=64,
        ci_blocks=1,
        ci_inner=128,
        ci_heads=4,
    ),
    "simplestories-4l": SIMPLESTORIES_SHAPE,
    "paper": Shape(),
}


@dataclass
class StagesMeasured:
    """Seconds of each stage, in order.

    Args:
        what: the run, its size and how it was harvested.
        seconds: by stage; those of a process's start and end have names of their own.
        whole: from the start of the command to its end.
    """

    what: str
    seconds: dict[str, float] = field(default_factory=dict)
    whole: float = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add what the block takes."""
        started = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Add the seconds of a stage to those it has taken before."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.whole += seconds
