"""Harvests submitted to the Dagster daemon as one backfill."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.dagster_private import (
    AssetGraphSubset,
    AssetKeyPartitionKey,
    BaseAssetGraph,
    PartitionBackfill,
    make_new_backfill_id,
)
from harvest_assets.orchestration.harvest_config import prepare_config
from harvest_assets.orchestration.harvests import all_parts, missing_parts
from harvest_assets.orchestration.jobs import asset_key
from harvest_assets.orchestration.partitions import registration
from harvest_assets.settings import HarvestSettings
from harvest_assets.stages import Asset
from harvest_assets.store.plan import HarvestPlan, default_n_shards

# The daemon sends a heartbeat every thirty seconds.
_ALIVE_SECONDS = 90.0


def daemon_is_alive(instance: dg.DagsterInstance) -> bool:
    """Whether a Dagster daemon works on backfills of this instance."""
    heartbeat = instance.get_daemon_heartbeats().get("BACKFILL")
    return heartbeat is not None and time.time() - heartbeat.timestamp < _ALIVE_SECONDS


def submit(
    instance: dg.DagsterInstance,
    graph: BaseAssetGraph[Any],
    keys: Sequence[str],
    *,
    title: str,
    settings: Mapping[str, Any] | None = None,
    step: int | None = None,
    rebuild: bool = False,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Submit the harvests of registered runs to the daemon.

    Args:
        instance: where it is recorded.
        graph: the asset graph.
        keys: the runs.
        title: shown in the UI.
        settings: of `HarvestSettings`; what is omitted stays as in the stored plans.
        step: of the checkpoint; see `prepare_config`.
        rebuild: make everything, beginning with the plan; else only what is missing.
        tags: of the backfill and of its runs.

    Returns:
        The id of the backfill.
    """
    run_config = prepare_config(settings or {}, step)
    plan = run_config["ops"][Asset.HARVEST_PLAN.value]["config"]
    planned = {key: n for key in keys if (n := _planned_shards(key))}
    # The shards of a plan that is still to be made must be known.
    if "n_shards" in plan or planned.keys() != set(keys):
        default = HarvestSettings.over_defaults({}).n_shards or default_n_shards()
        plan["n_shards"] = plan.get("n_shards") or default
    parts = set()
    for key in keys:
        n_shards = plan["n_shards"] if "n_shards" in plan else planned[key]
        parts |= set(
            all_parts(key, n_shards) if rebuild else missing_parts(instance, key, n_shards)
        )
    backfill = PartitionBackfill.from_asset_graph_subset(
        backfill_id=make_new_backfill_id(),
        backfill_timestamp=time.time(),
        tags=dict(tags or {}),
        dynamic_partitions_store=instance,
        asset_graph_subset=AssetGraphSubset.from_asset_partition_set(
            {AssetKeyPartitionKey(asset_key(asset), part) for asset, part in parts}, graph
        ),
        title=title,
        description="\n".join(keys),
        run_config=run_config,
    )
    instance.add_backfill(backfill)
    return str(backfill.backfill_id)


def _planned_shards(key: str) -> int | None:
    """Number of shards in a run's stored plan; None if there is no readable plan."""
    try:
        return HarvestPlan.open(registration(key).layout.root).n_shards
    except HarvestError:
        return None
