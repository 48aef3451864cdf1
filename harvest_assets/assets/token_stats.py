"""Which tokens components fire on, and which the model then predicts."""

from typing import Any

import dagster as dg

from harvest_assets.orchestration.asset_metadata import GROUP, OWNERS, how_to_view, stage_tags
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
def token_stats(
    context: dg.AssetExecutionContext, harvest_plan: HarvestPlan, harvest_shard: ShardResults
) -> dg.MaterializeResult[Any]:
    """`token_stats.pt`: input token counts and next-token probability mass per component."""
    from harvest_assets.results.merge import MergedTokenStats

    total = harvest_shard.open(harvest_plan)
    owner = registration(context.partition_key)
    return dg.MaterializeResult(
        value=MergedTokenStats(total, harvest_plan.digest),
        metadata={
            "tokens": total.total_tokens_processed,
            "vocabulary": total.settings.vocab_size,
            **how_to_view(owner),
            "path": dg.MetadataValue.path(str(owner.layout.token_stats)),
        },
    )
