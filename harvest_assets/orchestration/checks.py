"""Are the merged counts consistent with themselves and with the shards they were summed from?"""

import warnings
from typing import TYPE_CHECKING

import dagster as dg

from harvest_assets.layout import HarvestLayout
from harvest_assets.orchestration.failures import refuses_bad_input
from harvest_assets.orchestration.partitions import registration, runs
from harvest_assets.plan import HarvestPlan
from harvest_assets.shards import ShardResults

if TYPE_CHECKING:
    import torch

_BLOCK = 1024

# Checks per partition are wanted, and known to be new in Dagster: nobody need be told each time.
warnings.filterwarnings(
    "ignore", message="Specifying a partitions_def on an AssetCheckSpec", category=dg.PreviewWarning
)


@dg.asset_check(
    asset="component_correlations",
    partitions_def=runs,
    # Nothing is folded and removed before the counts have been looked at.
    blocking=True,
    additional_ins={
        "harvest_plan": dg.AssetIn("harvest_plan"),
        "harvest_shard": dg.AssetIn("harvest_shard"),
    },
)
@refuses_bad_input
def counts_are_consistent(
    context: dg.AssetCheckExecutionContext,
    harvest_plan: HarvestPlan,
    harvest_shard: ShardResults,
) -> dg.AssetCheckResult:
    """Co-firing counts are symmetric, bounded, and sum up over the shards."""
    return check_counts(registration(context.partition_key).layout, harvest_plan, harvest_shard)


def check_counts(
    paths: HarvestLayout, plan: HarvestPlan, shards: ShardResults
) -> dg.AssetCheckResult:
    """Look at the counts in `component_correlations.pt` and at the shards they come from.

    Raises:
        HarvestError: a file is missing or damaged.
    """
    from harvest_assets.harvester.counters import total_sum
    from harvest_assets.storage import CorrelationStorage

    storage = CorrelationStorage.load(paths.component_correlations)
    states = shards.open(plan)
    problems = inconsistencies(storage.count_i, storage.count_ij, storage.count_total)
    tokens = sum(s.total_tokens_processed for s in states)
    if tokens != storage.count_total:
        problems.append(f"count_total is {storage.count_total}, the shards saw {tokens} positions")
    if (total_sum([s.firing_counts for s in states]) != storage.count_i).any():
        problems.append("count_i is not the sum over the shards")
    return dg.AssetCheckResult(
        passed=not problems,
        description="; ".join(problems) or "symmetry, diagonal, bounds and sums over shards hold",
        metadata={"tokens": storage.count_total, "shards": len(states)},
    )


def inconsistencies(
    count_i: "torch.Tensor", count_ij: "torch.Tensor", count_total: int
) -> list[str]:
    """What is wrong with the counts of one file; a block of rows is looked at at a time.

    Args:
        count_i: int64 [C].
        count_ij: int64 [C, C].
        count_total: positions seen.
    """
    problems = set()
    if (count_ij.diagonal() != count_i).any():
        problems.add("the diagonal of count_ij is not count_i")
    if (count_i > count_total).any():
        problems.add("a component fired more often than there are positions")
    for start in range(0, len(count_ij), _BLOCK):
        block = slice(start, start + _BLOCK)
        rows = count_ij[block]
        if (rows != count_ij[:, block].T).any():
            problems.add("count_ij is not symmetric")
        if (rows < 0).any() or (rows > count_i[block, None]).any():
            problems.add("two components fired together more often than one of them")
    return sorted(problems)
