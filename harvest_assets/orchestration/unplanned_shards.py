"""The shards that a plan does not need: sixteen exist, a plan has as many as share the work.

Dagster would take the others for missing work, and wait for them. So each is reported as
materialized, without a run and with a title that says why nothing was made.
"""

from __future__ import annotations

import dagster as dg

from harvest_assets.errors import counted
from harvest_assets.orchestration.jobs import asset_key
from harvest_assets.orchestration.partitions import shard_partition
from harvest_assets.stages import Asset
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.shards import SHARD_KEYS


def not_in_plan(plan: HarvestPlan, partition: str) -> dg.AssetMaterialization:
    """The event that reports a shard beyond those of its plan.

    Args:
        plan: of the harvest.
        partition: of the shard.
    """
    title = f"not in the plan ({counted(plan.n_shards, 'shard')})"
    return dg.AssetMaterialization(
        asset_key=asset_key(Asset.HARVEST_SHARD),
        partition=partition,
        description=title,
        metadata={"share": title},
    )


def report_unplanned_shards(instance: dg.DagsterInstance, plan: HarvestPlan, key: str) -> None:
    """Report all shards that the plan does not need, so that nothing waits for them.

    Args:
        instance: where it is recorded.
        plan: of the harvest.
        key: the partition of the harvest.
    """
    for shard in SHARD_KEYS[plan.n_shards :]:
        instance.report_runless_asset_event(not_in_plan(plan, shard_partition(key, shard)))
