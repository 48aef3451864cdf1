"""Whether the merged counts are consistent, also with the shards they were summed from."""

import warnings

import dagster as dg

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.orchestration.failures import refuses_bad_input
from harvest_assets.orchestration.jobs import asset_key
from harvest_assets.orchestration.partitions import registration, runs
from harvest_assets.stages import Asset
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.shards import ShardResults

# A preview feature of Dagster: no need to warn each time.
warnings.filterwarnings(
    "ignore", message="Specifying a partitions_def on an AssetCheckSpec", category=dg.PreviewWarning
)


@dg.asset_check(
    asset=asset_key(Asset.COMPONENT_CORRELATIONS),
    partitions_def=runs,
    # Shards are compacted and removed only after the counts have been checked.
    blocking=True,
    additional_ins={
        Asset.HARVEST_PLAN.value: dg.AssetIn(asset_key(Asset.HARVEST_PLAN)),
        Asset.HARVEST_SHARD.value: dg.AssetIn(asset_key(Asset.HARVEST_SHARD)),
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
    """Check the counts in `component_correlations.pt` against the sum of the shards.

    Raises:
        HarvestError: a file is missing or damaged.
    """
    from harvest_assets.results.count_tensors import CorrelationStorage
    from harvest_assets.store.verification import inconsistencies

    storage = CorrelationStorage.load(paths.component_correlations)
    total = shards.open(plan)
    problems = inconsistencies(storage.count_i, storage.count_ij, storage.count_total)
    tokens = total.total_tokens_processed
    if tokens != storage.count_total:
        problems.append(f"count_total is {storage.count_total}, the shards saw {tokens} positions")
    if (total.firing_counts != storage.count_i).any():
        problems.append("count_i is not the sum over the shards")
    return dg.AssetCheckResult(
        passed=not problems,
        description="; ".join(problems) or "symmetry, diagonal, bounds and sums over shards hold",
        metadata={"tokens": storage.count_total, "shards": total.n_states},
    )


@dg.asset_check(asset=asset_key(Asset.ACTIVATION_CONTEXTS), partitions_def=runs, blocking=True)
@refuses_bad_input
def files_agree(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """The result files agree: sizes, symmetry, marginals, and the index with some of the lines.

    `harvest-assets verify` reads every byte.
    """
    from harvest_assets.store.verification import problems_of

    problems = problems_of(registration(context.partition_key).layout, deep=False)
    return dg.AssetCheckResult(
        passed=not problems,
        description=" ".join(problems) or "sizes, counts, marginals, index and lines agree",
    )
