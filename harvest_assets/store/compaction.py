"""Fold the states of a harvest into one, a block of components at a time.

Extending a harvest needs what was counted so far, but not shard by shard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from harvest_assets.files.atomic import remove
from harvest_assets.files.commit import commit_directory
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.lease import LeaseHeldError, hold_lease
from harvest_assets.harvester.counters import COUNT_TYPES, total_sum
from harvest_assets.harvester.reservoir import ReservoirSampler
from harvest_assets.harvester.state import N_HIGHEST, HarvesterState, common_settings
from harvest_assets.results.merge import scratch
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.shards import SHARD_KEYS, ShardResult, ShardResults, Work

_BLOCK_ENTRIES = 1 << 22


@dataclass(frozen=True)
class FoldedState:
    """The sum of states, summed while it is written."""

    states: Sequence[HarvesterState]
    plan_digest: str
    sums: str
    rows: range

    def write(self, directory: Path) -> None:
        """Write it as the state of a shard is written."""
        states = self.states
        settings = common_settings(states)
        with ExitStack() as stack:

            def summed(
                name: str, add: Callable[[list[torch.Tensor]], torch.Tensor]
            ) -> torch.Tensor:
                parts = [getattr(s, name) for s in states]
                file = scratch(directory / f"{name}.scratch", _flat(parts[0]).shape, _type(parts))
                total = stack.enter_context(file)
                for start in range(0, len(total), step := _step(total)):
                    block = slice(start, start + step)
                    total[block] = add([_flat(part)[block] for part in parts])
                return total.view(parts[0].shape)

            ShardResult(
                self.plan_digest,
                self.sums,
                "merged",
                self.rows,
                HarvesterState(
                    settings=settings,
                    total_tokens_processed=sum(s.total_tokens_processed for s in states),
                    ci_sums=torch.stack([s.ci_sums for s in states]).sum(dim=0),
                    ci_histogram=total_sum([s.ci_histogram for s in states]),
                    cooccurrence=summed("cooccurrence", total_sum),
                    input_counts=summed("input_counts", total_sum),
                    input_token_totals=total_sum([s.input_token_totals for s in states]),
                    output_token_prob_mass=summed("output_token_prob_mass", _float_sum),
                    output_token_prob_totals=_float_sum(
                        [s.output_token_prob_totals for s in states]
                    ),
                    sample=ReservoirSampler.merge(
                        [s.sample for s in states],
                        settings.sample.activation_examples_per_component,
                    ),
                    highest=ReservoirSampler.merge([s.highest for s in states], N_HIGHEST),
                ),
            ).write(directory)


def fold(paths: HarvestLayout, plan: HarvestPlan, keep: str) -> int:
    """Fold the states of a verified harvest into one, and remove what is not to be kept.

    The lease of the merge must be held. Shards that somebody works on stay.

    Args:
        paths: of the harvest.
        plan: of the harvest.
        keep: `all` keeps shards and the merged state, `merged` the latter, `none` nothing.

    Returns:
        Bytes written.

    Raises:
        HarvestError: states are missing or damaged; nothing is removed then.
    """
    written = 0
    if keep != "none":
        work = Work.of(paths, plan)
        states = ShardResults(paths).open(plan)
        whole = range(work.n_rows)
        if work.merged is None or work.merged.rows != whole:
            written = commit_directory(
                paths.merged_current, FoldedState(states, plan.digest, work.sums, whole)
            )
    if keep != "all":
        for shard in SHARD_KEYS:
            _remove_shard(paths, shard)
    if keep == "none":
        remove(paths.merged)
    return written


def _remove_shard(paths: HarvestLayout, shard: str) -> None:
    if not paths.shard(shard).exists():
        return
    try:
        with hold_lease(paths.lease(f"shard-{shard}"), f"Shard {shard}"):
            # The pointer first: a shard is there or not, never half.
            paths.shard_current(shard).unlink(missing_ok=True)
            remove(paths.shard(shard))
    except LeaseHeldError:
        return


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.ndim > 1 else tensor[:, None]


def _step(tensor: torch.Tensor) -> int:
    return max(1, _BLOCK_ENTRIES // tensor.shape[1])


def _float_sum(parts: list[torch.Tensor]) -> torch.Tensor:
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


def _type(parts: list[torch.Tensor]) -> torch.dtype:
    """A type that holds the sums: of integers the narrowest that certainly does."""
    if parts[0].is_floating_point():
        return parts[0].dtype
    bound = sum(int(part.max()) if part.numel() else 0 for part in parts)
    return next(dtype for dtype in COUNT_TYPES if bound <= torch.iinfo(dtype).max)
