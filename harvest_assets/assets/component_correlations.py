"""Firing and co-firing counts of the whole harvest."""

from typing import Any

import dagster as dg

from harvest_assets.orchestration.failures import one_owner
from harvest_assets.orchestration.partitions import merge_work, registration, runs
from harvest_assets.plan import HarvestPlan
from harvest_assets.shards import ShardResults


@dg.asset(
    group_name="harvest",
    partitions_def=runs,
    kinds={"torch"},
    code_version="1",
    output_required=False,
)
@one_owner(merge_work)
def component_correlations(
    context: dg.AssetExecutionContext, harvest_plan: HarvestPlan, harvest_shard: ShardResults
) -> dg.MaterializeResult[Any]:
    """`component_correlations.pt`: how often each component fired, and each pair together."""
    from harvest_assets.merging import MergedCorrelations, firing_overview

    states = harvest_shard.open(harvest_plan)
    overview = firing_overview(states)
    path = registration(context.partition_key).layout.component_correlations
    return dg.MaterializeResult(
        value=MergedCorrelations(states, harvest_plan.digest),
        metadata={
            "tokens": overview.n_tokens,
            "components": overview.n_components,
            "components alive": overview.n_alive,
            "L0": round(overview.l0, 3),
            "layers": dg.MetadataValue.md(overview.table()),
            "path": dg.MetadataValue.path(str(path)),
        },
    )
