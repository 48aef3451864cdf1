"""Firing and co-firing counts of the whole harvest."""

from typing import Any

import dagster as dg

from harvest_assets.orchestration.asset_metadata import (
    GROUP,
    OWNERS,
    firing_metadata,
    how_to_view,
    stage_tags,
)
from harvest_assets.orchestration.conditions import MERGE
from harvest_assets.orchestration.failures import RETRIES, one_owner
from harvest_assets.orchestration.harvest_config import NO_CONFIG
from harvest_assets.orchestration.partitions import merge_work, registration, runs
from harvest_assets.stages import Stage
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.shards import ShardResults


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    tags=stage_tags(Stage.MERGE, "cpu"),
    partitions_def=runs,
    kinds={"torch"},
    code_version="1",
    automation_condition=MERGE,
    retry_policy=RETRIES,
    config_schema=NO_CONFIG,
    output_required=False,
)
@one_owner(merge_work)
def component_correlations(
    context: dg.AssetExecutionContext, harvest_plan: HarvestPlan, harvest_shard: ShardResults
) -> dg.MaterializeResult[Any]:
    """`component_correlations.pt`: how often each component fired, and each pair together."""
    from harvest_assets.results.merge import MergedCorrelations

    total = harvest_shard.open(harvest_plan)
    owner = registration(context.partition_key)
    return dg.MaterializeResult(
        value=MergedCorrelations(total, harvest_plan.digest),
        metadata={
            **firing_metadata(total),
            **how_to_view(owner),
            "path": dg.MetadataValue.path(str(owner.layout.component_correlations)),
        },
    )
