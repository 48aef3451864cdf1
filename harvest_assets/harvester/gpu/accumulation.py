"""One batch on a GPU, kernel by kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.profiler import record_function

from harvest_assets.harvester.batch import Batch
from harvest_assets.harvester.gpu import passes
from harvest_assets.harvester.reservoir import ReservoirSampler

# Positions x components worked through together: each chunk reads and writes the large sums once.
_CHUNK_ELEMENTS = 1 << 29
# Fewer than the 2^24 up to which float32 counts exactly.
_CHUNK_POSITIONS = 1 << 20
# Firings listed together, about 50 bytes each.
_LISTED_FIRINGS = 1 << 21


@dataclass(frozen=True)
class Totals:
    """What a batch is added to, in place."""

    ci_histogram: torch.Tensor  # int64 [C, 64]
    count_ij: torch.Tensor  # int32 or int64 [C, C], upper triangle; [0, 0] where not counted
    input_counts: torch.Tensor  # int32 or int64 [C, V]
    output_mass: torch.Tensor  # float64 [C, V]
    samplers: Mapping[str, ReservoirSampler]  # by the field of the state


def add_batch(batch: Batch, totals: Totals) -> torch.Tensor:
    """Add a batch; the host waits only for numbers of firings.

    Returns:
        Its CI sums, float64 [C].
    """
    # Triton launches kernels on the current device; -1, a CPU, changes nothing.
    with torch.cuda.device(batch.ci.get_device()):
        return _add_batch(batch, totals)


def _add_batch(batch: Batch, totals: Totals) -> torch.Tensor:
    batch = passes.contiguous(batch)
    ci, probs = batch.ci.flatten(0, 1), batch.output_probs.flatten(0, 1)
    n, n_components = ci.shape
    ci_sums = ci.new_zeros(n_components, dtype=torch.float64)
    step = min(_CHUNK_POSITIONS, max(1, _CHUNK_ELEMENTS // n_components))
    for start in range(0, n, step):
        chunk = slice(start, min(start + step, n))
        with record_function("firing statistics"):
            found = passes.find_firings(ci[chunk], batch.settings.sample.ci_threshold)
            ci_sums += found.ci_sums
        # What waits for the device comes first: the host then runs ahead of the large sums.
        candidates = list(_count_listed(batch, found, start, totals))
        if batch.settings.cooccurrence:
            with record_function("co-occurrence"):
                passes.add_cofirings(totals.count_ij, found.fired)
        with record_function("output tokens"):
            passes.add_output_mass(totals.output_mass, probs[chunk], found)
        with record_function("examples"):
            for sampler, firings in candidates:
                sampler.keep(passes.windows(batch, *firings))
    return ci_sums


def _count_listed(
    batch: Batch, found: passes.FoundFirings, start: int, totals: Totals
) -> Iterator[tuple[ReservoirSampler, tuple[torch.Tensor, ...]]]:
    """Add the counts per firing; yields candidates for a sampler as arguments of `windows`."""
    for first in range(0, len(found.position), _LISTED_FIRINGS):
        part = slice(first, first + _LISTED_FIRINGS)
        position, component = found.position[part] + start, found.component[part]
        with record_function("input tokens"):
            priorities = passes.count_firings(
                batch, position, component, totals.ci_histogram, totals.input_counts
            )
        with record_function("examples"):
            for name, sampler in totals.samplers.items():
                priority = priorities[name]
                chosen = sampler.candidates(component, priority, priorities["sample"])
                if len(chosen):
                    yield sampler, (component[chosen], position[chosen], priority[chosen])
