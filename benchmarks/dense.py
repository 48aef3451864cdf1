"""The statistics written straight from their definitions, with dense matrices in float32.

The yardstick: what one writes first. It is as inexact as that (float32 counts, at most five
firings of a component looked at in a batch) and is measured, not used.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.batches import Batch, Size

_PER_BATCH = 5
_SIDE = 10
_THRESHOLD = 1e-6


class DenseHarvester:
    """Accumulates batches, and the seconds that each phase took.

    Args:
        size: of the batches.
        k: examples kept of each component.
        device: where to accumulate.
    """

    def __init__(self, size: Size, k: int, device: str) -> None:
        c, v = size.n_components, size.vocab_size
        self.seconds: dict[str, float] = defaultdict(float)
        self._k = k
        self._device = device
        self._random = random.Random(0)  # noqa: S311
        self._firings = torch.zeros(c, device=device)
        self._ci_sums = torch.zeros(c, device=device)
        self._count_ij = torch.zeros(c, c, device=device)
        self._input_counts = torch.zeros(c, v, device=device)
        self._output_mass = torch.zeros(c, v, device=device)
        self._examples: list[list[tuple[list[int], list[float], list[float]]]] = [
            [] for _ in range(c)
        ]
        self._seen = [0] * c

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self._device != "cpu":
            torch.cuda.synchronize()
        self.seconds[name] += time.perf_counter() - started

    def process_batch(self, batch: Batch) -> None:
        """Add a batch."""
        tokens = batch.tokens.flatten()
        ci = batch.ci.flatten(0, 1)
        with self._phase("firing statistics"):
            firing = ci > _THRESHOLD
            fired = firing.float()
            self._firings += fired.sum(0)
            self._ci_sums += ci.sum(0)
        with self._phase("co-occurrence"):
            self._count_ij += fired.T @ fired
        with self._phase("input tokens"):
            index = tokens.expand(len(self._firings), -1)
            self._input_counts.scatter_add_(1, index, fired.T.contiguous())
        with self._phase("output tokens"):
            self._output_mass += fired.T @ batch.output_probs.flatten(0, 1)
        with self._phase("examples"):
            self._sample(batch, firing)

    def _sample(self, batch: Batch, firing: torch.Tensor) -> None:
        """A reservoir of each component, fed with at most five of its firings."""
        noise = torch.rand(firing.shape, device=firing.device).masked_fill_(~firing, -1)
        noise, places = noise.topk(min(_PER_BATCH, len(noise)), dim=0)
        offset, component = (noise > 0).nonzero(as_tuple=True)
        position = places[offset, component]
        length = batch.tokens.shape[1]
        row, centre = position // length, position % length
        at = centre[:, None] + torch.arange(-_SIDE, _SIDE + 1, device=firing.device)
        inside = (at >= 0) & (at < length)
        where = (row[:, None], at.clamp(0, length - 1))
        windows = zip(
            component.tolist(),
            batch.tokens[where].masked_fill(~inside, -1).tolist(),
            batch.ci[(*where, component[:, None])].masked_fill(~inside, 0).tolist(),
            batch.component_acts[(*where, component[:, None])].masked_fill(~inside, 0).tolist(),
            strict=True,
        )
        for c, *window in windows:
            self._seen[c] += 1
            kept = self._examples[c]
            if len(kept) < self._k:
                kept.append(tuple(window))
            else:
                place = self._random.randrange(self._seen[c])
                if place < self._k:
                    kept[place] = tuple(window)
