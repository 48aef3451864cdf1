"""What keeps every firing of a shard, where the plan asks for it."""

from __future__ import annotations

from harvest_assets.files.atomic import sweep, temporary_beside
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.harvester.kept_firings import FiringRecorder
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.shards import FIRINGS_FOLDER, ShardResult


def recorder_of(
    plan: HarvestPlan, share: ShardResult, paths: HarvestLayout
) -> FiringRecorder | None:
    """What keeps the firings of a share; None if the plan keeps none.

    Its folder is temporary: states that are committed have links of their own, and what a killed
    process leaves is swept away.
    """
    if not plan.keep_firings:
        return None
    shard = paths.shard(share.shard)
    sweep(shard)
    folder = temporary_beside(shard / FIRINGS_FOLDER)
    return FiringRecorder(folder, plan.rows_with_firings(share.rows), plan.ci_threshold)
