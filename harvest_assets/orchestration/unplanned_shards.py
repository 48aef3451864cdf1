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


def not_in_plan(key: str, plan: HarvestPlan, shard: str) -> dg.AssetMaterialization:
    """The event that reports a shard beyond those of its plan.

    Args:
        key: the partition key of the harvest.
        plan: of the harvest.
        shard: `00` to `15`.
    """
    title = f"not in the plan ({counted(plan.n_shards, 'shard')})"
    return dg.AssetMaterialization(
        asset_key=asset_key(Asset.HARVEST_SHARD),
        partition=shard_partition(key, shard),
        description=title,
        metadata={"share": title},
    )


def report_unplanned_shards(instance: dg.DagsterInstance, key: str, plan: HarvestPlan) -> None:
    """Report all shards that the plan does not need, so that nothing waits for them."""
    for shard in SHARD_KEYS[plan.n_shards :]:
        instance.report_runless_asset_event(not_in_plan(key, plan, shard))
