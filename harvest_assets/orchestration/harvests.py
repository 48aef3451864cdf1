"""Which registered harvests are made, in progress, failed, or waiting to be made.

The one place that decides what is unharvested: the schedule, the commands and the automation all
use it, so that none of them starts a harvest that another has started. They make the first harvest
of each run; further ones (`run@name`) are made only by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

import dagster as dg

from harvest_assets.errors import HarvestError
from harvest_assets.files.lease import is_held
from harvest_assets.files.manifest import read
from harvest_assets.orchestration.dagster_private import (
    AssetBackfillData,
    AssetPartitionStatus,
    BaseAssetGraph,
    BulkActionsFilter,
    BulkActionStatus,
)
from harvest_assets.orchestration.jobs import asset_key
from harvest_assets.orchestration.partitions import (
    RUN_DIMENSION,
    harvest_lease,
    registration,
    run_of,
    run_shards,
    runs,
    shard_partition,
)
from harvest_assets.orchestration.wandb.retrained import resumed_runs
from harvest_assets.stages import Asset, Stage
from harvest_assets.store.harvest_name import is_further
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.shards import SHARD_KEYS, ShardResults

_OF_RUNS = (*Stage.PREPARE.assets, *Stage.MERGE.assets)
_SHARDS = asset_key(Asset.HARVEST_SHARD)
_AT_WORK = (BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING)
_Statuses = Mapping[str, AssetPartitionStatus | None]


class HarvestStatus(Enum):
    """The status of a harvest."""

    UNHARVESTED = "to be harvested"
    BY_NAME = "not harvested; a further harvest is only made by its name"
    IN_PROGRESS = "queued or in progress"
    FAILED = "failed; it is not retried automatically"
    CHANGED = "harvested; its plan or its checkpoint has changed since"
    HARVESTED = "harvested"


@dataclass(frozen=True)
class Harvest:
    """One harvest.

    Args:
        key: the partition key.
        status: its status.
        begun: whether a part of it exists or is being made.
        backfilled: whether it is part of an unfinished backfill.
    """

    key: str
    status: HarvestStatus
    begun: bool
    backfilled: bool


def unharvested(
    instance: dg.DagsterInstance, graph: BaseAssetGraph[Any], *, include_changed: bool = False
) -> list[str]:
    """The registered runs whose first harvest is missing and not started, oldest first.

    Runs that are queued, in progress or failed for good are excluded.

    Args:
        instance: where runs are recorded.
        graph: the asset graph.
        include_changed: also those whose plan or checkpoint has changed since the harvest.
    """
    wanted = {HarvestStatus.UNHARVESTED}
    if include_changed:
        wanted.add(HarvestStatus.CHANGED)
    firsts = (it for it in harvests_of(instance, graph) if not is_further(it.key))
    return [it.key for it in firsts if it.status in wanted]


def harvests_of(
    instance: dg.DagsterInstance, graph: BaseAssetGraph[Any], keys: Iterable[str] | None = None
) -> list[Harvest]:
    """The harvests of registered runs, in the order of registration.

    Args:
        instance: where runs are recorded.
        graph: the asset graph.
        keys: only these; None is all.
    """
    registered = instance.get_dynamic_partitions(RUN_DIMENSION)
    if keys is not None:
        wanted = set(keys)
        registered = [key for key in registered if key in wanted]
    by_asset = {
        asset: instance.get_status_by_partition(asset_key(asset), registered, runs) or {}
        for asset in _OF_RUNS
    }
    backfilled = _runs_in_backfills(instance, graph)
    changed = _changed(instance)
    harvested = by_asset[Asset.ACTIVATION_CONTEXTS]
    # The shards of runs that have not begun or are finished need not be queried.
    planned = by_asset[Asset.HARVEST_PLAN]
    begun = [key for key in registered if planned.get(key) and not _is(harvested, key)]
    shards = _of_shards(instance, begun)
    found = []
    for key in registered:
        statuses = {by_asset[asset].get(key) for asset in by_asset} | shards.get(key, set())
        status = _status(key, statuses, backfilled, harvested, changed)
        found.append(Harvest(key, status, bool(statuses - {None}), key in backfilled))
    return found


def missing_parts(instance: dg.DagsterInstance, key: str, n_shards: int) -> list[tuple[Asset, str]]:
    """The assets and partitions to materialize for the harvest of a run.

    Of a run with a plan, what is missing; if nothing is, all that follows from the plan. Of others,
    and of one that was trained further, everything.

    Args:
        instance: where runs are recorded.
        key: the run.
        n_shards: of the plan, if it is still to be made.
    """
    lacking = [
        asset
        for asset in _OF_RUNS
        if not _is(instance.get_status_by_partition(asset_key(asset), [key], runs) or {}, key)
    ]
    if set(lacking) & set(Stage.PREPARE.assets) or key in resumed_runs(instance):
        return all_parts(key, n_shards)
    try:
        without_result = shards_without_result(key)
    except HarvestError:  # files were removed behind Dagster's back
        return all_parts(key, n_shards)
    shards = _planned_shards(key)
    statuses = instance.get_status_by_partition(_SHARDS, shards, run_shards) or {}
    missing = [
        shard
        for shard in shards
        if not lacking or shard in without_result or not _is(statuses, shard)
    ]
    return [
        *((Asset.HARVEST_SHARD, shard) for shard in missing),
        *((asset, key) for asset in lacking or Stage.MERGE.assets),
    ]


def all_parts(key: str, n_shards: int) -> list[tuple[Asset, str]]:
    """All assets and partitions of the harvest of a run in so many shards."""
    shards = [(Asset.HARVEST_SHARD, shard_partition(key, name)) for name in SHARD_KEYS[:n_shards]]
    return [*((asset, key) for asset in _OF_RUNS), *shards]


def shards_without_result(key: str) -> set[str]:
    """The partitions of those shards of a run's plan whose result for the plan is not on disk.

    Dagster has a materialization also of a shard that an earlier plan did not need.

    Raises:
        HarvestError: the plan or the token rows are missing or damaged.
    """
    paths = registration(key).layout
    names = ShardResults(paths).without_result(HarvestPlan.open(paths.root))
    return {shard_partition(key, name) for name in names}


def newly_planned_shards(instance: dg.DagsterInstance, keys: set[str]) -> dict[str, str]:
    """The shards that have to be made because the plan was replaced meanwhile.

    Of unfinished harvests only: whether a finished one is made again, people decide.

    Args:
        instance: where runs are recorded.
        keys: of the runs.

    Returns:
        The run's key by the shard's partition.
    """
    event = dg.DagsterEventType.ASSET_MATERIALIZATION
    planned, harvested = (
        instance.get_latest_storage_id_by_partition(asset_key(asset), event, keys)
        for asset in (Asset.HARVEST_PLAN, Asset.ACTIVATION_CONTEXTS)
    )
    runs_of = {
        shard: key for key in planned.keys() - harvested.keys() for shard in _planned_shards(key)
    }
    if not runs_of:
        return {}
    made = instance.get_latest_storage_id_by_partition(_SHARDS, event, set(runs_of))
    older = {shard for shard, number in made.items() if number < planned[runs_of[shard]]}
    without_result: set[str] = set()
    for key in {runs_of[shard] for shard in older}:
        with suppress(HarvestError):  # the merge reports it
            without_result |= shards_without_result(key)
    return {shard: runs_of[shard] for shard in older & without_result}


def _status(
    key: str,
    statuses: set[AssetPartitionStatus | None],
    backfilled: set[str],
    harvested: _Statuses,
    changed: set[str],
) -> HarvestStatus:
    if AssetPartitionStatus.IN_PROGRESS in statuses:
        return HarvestStatus.IN_PROGRESS
    if AssetPartitionStatus.FAILED in statuses:
        return HarvestStatus.FAILED
    if key in backfilled or is_driven(key):
        return HarvestStatus.IN_PROGRESS
    if not _is(harvested, key):
        return HarvestStatus.BY_NAME if is_further(key) else HarvestStatus.UNHARVESTED
    return HarvestStatus.CHANGED if key in changed else HarvestStatus.HARVESTED


def is_driven(key: str) -> bool:
    """Whether a command is driving the whole harvest of a run."""
    try:
        return is_held(harvest_lease(registration(key)))
    except HarvestError:
        return False


def _is(statuses: _Statuses, key: str) -> bool:
    return statuses.get(key) == AssetPartitionStatus.MATERIALIZED


def _of_shards(
    instance: dg.DagsterInstance, keys: Iterable[str]
) -> dict[str, set[AssetPartitionStatus | None]]:
    """The statuses of the shards of each run's plan, all in one set."""
    partitions = [shard for key in keys for shard in _planned_shards(key)]
    if not partitions:
        return {}
    found: dict[str, set[AssetPartitionStatus | None]] = {}
    statuses = instance.get_status_by_partition(_SHARDS, partitions, run_shards) or {}
    for partition in partitions:
        found.setdefault(run_of(partition), set()).add(statuses.get(partition))
    return found


def _planned_shards(key: str) -> list[str]:
    """The partitions of the shards of a run's plan; of all, where the plan cannot be read."""
    try:
        n_shards = HarvestPlan.open(registration(key).layout.root).n_shards
    except HarvestError:
        n_shards = None
    return [shard_partition(key, name) for name in SHARD_KEYS[:n_shards]]


def left_to_backfills(
    instance: dg.DagsterInstance, graph: BaseAssetGraph[Any], asset: dg.AssetKey
) -> set[str]:
    """The partitions of an asset that an unfinished backfill is to make and has not made yet."""
    found: set[str] = set()
    for backfill in _unfinished_backfills(instance, graph):
        left = (backfill.target_subset - backfill.materialized_subset).get_asset_subset(asset)
        if left is not None and left.is_partitioned:
            found |= set(left.subset_value.get_partition_keys())
    return found


def _runs_in_backfills(instance: dg.DagsterInstance, graph: BaseAssetGraph[Any]) -> set[str]:
    """The runs of which an unfinished backfill makes something, or has made it."""
    return {
        run_of(part.partition_key)
        for backfill in _unfinished_backfills(instance, graph)
        for part in backfill.target_subset.iterate_asset_partitions()
        if part.partition_key is not None
    }


def _unfinished_backfills(
    instance: dg.DagsterInstance, graph: BaseAssetGraph[Any]
) -> Iterator[AssetBackfillData]:
    for backfill in instance.get_backfills(BulkActionsFilter(statuses=_AT_WORK)):
        if backfill.is_asset_backfill:
            yield backfill.get_asset_backfill_data(graph)


def _changed(instance: dg.DagsterInstance) -> set[str]:
    """Runs that were trained further, or whose plan changed, since they were harvested."""
    planned, harvested = (
        instance.get_latest_storage_id_by_partition(
            asset_key(asset), dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        for asset in (Asset.HARVEST_PLAN, Asset.ACTIVATION_CONTEXTS)
    )
    planned_later = {key for key, number in harvested.items() if planned.get(key, 0) > number}
    return resumed_runs(instance) | {key for key in planned_later if _has_another_plan(key)}


def _has_another_plan(key: str) -> bool:
    try:
        paths = registration(key).layout
        digest = HarvestPlan.open(paths.root).digest
    except HarvestError:
        return False
    return any(entry.plan != digest for entry in read(paths).values())
