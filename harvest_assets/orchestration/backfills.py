"""Harvests handed to the Dagster daemon as one backfill, and followed from outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.dagster_private import (
    AssetGraphSubset,
    AssetKeyPartitionKey,
    BaseAssetGraph,
    BulkActionStatus,
    PartitionBackfill,
    make_new_backfill_id,
)
from harvest_assets.orchestration.harvest_config import prepare_config
from harvest_assets.orchestration.harvests import all_parts, missing_parts
from harvest_assets.orchestration.jobs import asset_key
from harvest_assets.orchestration.partitions import registration
from harvest_assets.orchestration.plan_changes import plan_changes
from harvest_assets.orchestration.progress import read_progress
from harvest_assets.orchestration.run_failures import failure_in
from harvest_assets.stages import Asset
from harvest_assets.store.plan import HarvestPlan, default_n_shards
from harvest_assets.store.settings import HarvestConfig
from harvest_assets.store.shards import SHARD_KEYS

_POLL_SECONDS = 1.0
# The daemon tells every thirty seconds that it lives.
_ALIVE_SECONDS = 90.0
_OVER = (
    BulkActionStatus.COMPLETED,
    BulkActionStatus.COMPLETED_SUCCESS,
    BulkActionStatus.COMPLETED_FAILED,
    BulkActionStatus.FAILED,
    BulkActionStatus.CANCELED,
)


def daemon_is_alive(instance: dg.DagsterInstance) -> bool:
    """Does a Dagster daemon work on backfills of this instance?"""
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
    anew: bool = False,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Hand the harvests of registered runs to the daemon.

    Args:
        instance: where it is recorded.
        graph: the asset graph.
        keys: the runs.
        title: what people see.
        settings: of `HarvestConfig`; what is omitted stays as in the stored plans.
        step: of the checkpoint; see `prepare_config`.
        anew: everything, beginning with the plan; else what is missing.
        tags: of the backfill and of its runs.

    Returns:
        The id of the backfill.
    """
    run_config = prepare_config(settings or {}, step)
    plan = run_config["ops"][Asset.HARVEST_PLAN.value]["config"]
    planned = {key: n for key in keys if (n := _planned_shards(key))}
    # How many shards there are must be known before a plan is made.
    if "n_shards" in plan or planned.keys() != set(keys):
        plan["n_shards"] = plan.get("n_shards") or HarvestConfig().n_shards or default_n_shards()
    parts = set()
    for key in keys:
        n_shards = plan["n_shards"] if "n_shards" in plan else planned[key]
        parts |= set(all_parts(key, n_shards) if anew else missing_parts(instance, key, n_shards))
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


@dataclass(frozen=True)
class BackfillStatus:
    """Where a backfill is.

    Args:
        over: nothing more happens.
        harvested: runs that are finished.
        failed: why the others failed, by run.
        rows_done, rows: of the shards at work.
        tokens_per_second: of all of them.
        changes: what new plans change and what is done again, by run.
    """

    over: bool
    harvested: frozenset[str] = frozenset()
    failed: Mapping[str, str] = field(default_factory=dict)
    rows_done: int = 0
    rows: int = 0
    tokens_per_second: float = 0.0
    changes: Mapping[str, str] = field(default_factory=dict)


def follow(
    instance: dg.DagsterInstance,
    graph: BaseAssetGraph[Any],
    backfill_id: str,
    keys: Sequence[str],
    watch: Callable[[BackfillStatus], None],
) -> BackfillStatus:
    """Watch a backfill until it is over.

    Raises:
        HarvestError: the daemon is gone, so nothing goes on.
    """
    while True:
        status = look_at(instance, graph, backfill_id, keys)
        watch(status)
        if status.over:
            return status
        if not daemon_is_alive(instance):
            raise HarvestError(
                f"The Dagster daemon is gone; backfill {backfill_id} goes on when it is started "
                "again: harvest-assets ui"
            )
        time.sleep(_POLL_SECONDS)


def look_at(
    instance: dg.DagsterInstance,
    graph: BaseAssetGraph[Any],
    backfill_id: str,
    keys: Sequence[str],
) -> BackfillStatus:
    """Where a backfill is now."""
    backfill = instance.get_backfill(backfill_id)
    if backfill is None:
        raise HarvestError(f"Backfill {backfill_id} is not there any more.")
    data = backfill.get_asset_backfill_data(graph)
    last = asset_key(Asset.MERGED_STATE)
    harvested = {
        part.partition_key
        for part in data.materialized_subset.iterate_asset_partitions()
        if part.asset_key == last and part.partition_key is not None
    }
    over = backfill.status in _OVER
    failed = {}
    if over:
        reasons = _reasons(instance, backfill_id)
        other = f"backfill {backfill_id} ended as {backfill.status.value}"
        failed = {key: reasons.get(key, other) for key in keys if key not in harvested}
    working = [key for key in keys if key not in harvested]
    done, rows, speed = _progress(working, backfill.backfill_timestamp)
    changes = plan_changes(instance, keys, backfill.backfill_timestamp)
    return BackfillStatus(over, frozenset(harvested), failed, done, rows, speed, changes)


def _planned_shards(key: str) -> int | None:
    """Shards of the stored plan of a run; None if there is none that can be read."""
    try:
        return HarvestPlan.open(registration(key).layout.root).n_shards
    except HarvestError:
        return None


def _progress(keys: Sequence[str], since: float) -> tuple[int, int, float]:
    """Rows done, rows and tokens per second of the shards that have worked since then."""
    done, rows, speed = 0, 0, 0.0
    for key in keys:
        for name in SHARD_KEYS:
            path = registration(key).layout.shard_progress(name)
            try:
                fresh = path.stat().st_mtime >= since
            except OSError:
                continue
            part = read_progress(path) if fresh else None
            if part is not None:
                done, rows = done + part.rows_done, rows + part.rows
                speed += part.tokens_per_second if part.rows_done < part.rows else 0.0
    return done, rows, speed


def _reasons(instance: dg.DagsterInstance, backfill_id: str) -> dict[str, str]:
    """Why runs of a backfill failed, in a sentence, by the key of the SPD run."""
    filters = dg.RunsFilter(
        tags={"dagster/backfill": backfill_id}, statuses=[dg.DagsterRunStatus.FAILURE]
    )
    reasons: dict[str, str] = {}
    for run in instance.get_runs(filters):
        key = run.tags.get("dagster/partition", "").partition("|")[0]
        key = key or run.tags.get("dagster/partition/run", "")
        events = [entry.dagster_event for entry in instance.all_logs(run.run_id)]
        reason = failure_in([event for event in events if event is not None], success=False)
        if reason is not None:
            reasons.setdefault(key, reason)
    return reasons
