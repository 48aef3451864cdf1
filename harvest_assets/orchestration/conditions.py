"""When an asset is materialized automatically.

An asset is materialized when it is missing and everything it needs exists; that stays true at every
tick until it is done, so nothing is lost while the daemon is down. Three more rules:

- `run_checkpoint`, where a harvest begins, waits while `HARVEST_MAX_ACTIVE_RUNS` harvests are in
  progress;
- merged assets are materialized again after a shard was.

Further harvests of a run (`run@name`) are never materialized automatically.

What failed stays failed until it is started by hand or one of its inputs is materialized again.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import dagster as dg

from harvest_assets.errors import HarvestError
from harvest_assets.files.lease import is_held
from harvest_assets.orchestration.environment import UnattendedSettings
from harvest_assets.orchestration.harvests import (
    HarvestStatus,
    harvests_of,
    is_driven,
    left_to_backfills,
    newly_planned_shards,
)
from harvest_assets.orchestration.jobs import asset_key
from harvest_assets.orchestration.partitions import registration, run_of, shard_of
from harvest_assets.stages import Asset
from harvest_assets.store.harvest_name import is_further
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.shards import ShardResults

# A beta feature of Dagster: no need to warn each time.
warnings.filterwarnings(
    "ignore", message="Parameter `use_user_code_server`", category=dg.BetaWarning
)

_Context = dg.AutomationContext[dg.AssetKey]
_Condition = dg.AutomationCondition[Any]


@dataclass(frozen=True)
class _Selecting(dg.AutomationCondition[dg.AssetKey]):
    """True for the candidates that `select` returns."""

    def select(self, context: _Context, keys: set[str]) -> Iterable[str]:
        """The partition keys for which the condition is true."""
        raise NotImplementedError

    def evaluate(self, context: _Context) -> dg.AutomationResult[dg.AssetKey]:
        """See the base class."""
        candidates = context.candidate_subset
        keys = set(candidates.expensively_compute_partition_keys())
        chosen = set(self.select(context, keys)) if keys else set()
        return dg.AutomationResult(
            context, candidates.compute_intersection_with_partition_keys(chosen)
        )


@dataclass(frozen=True)
class Admitted(_Selecting):
    """There is room for another harvest; runs are admitted in order of registration."""

    @property
    def name(self) -> str:
        """The name shown in the UI."""
        return "fewer than HARVEST_MAX_ACTIVE_RUNS harvests are in progress"

    def select(self, context: _Context, keys: set[str]) -> Iterable[str]:
        """The runs registered first, as many as there is room for."""
        view = context.asset_graph_view
        harvests = harvests_of(view.instance, view.asset_graph)
        open_ = (HarvestStatus.UNHARVESTED, HarvestStatus.IN_PROGRESS)
        active = [it for it in harvests if it.begun and not it.backfilled and it.status in open_]
        room = max(0, UnattendedSettings.from_environment().max_active_runs - len(active))
        waiting = [it.key for it in harvests if it.key in keys]
        return waiting[:room]


@dataclass(frozen=True)
class IsFirst(_Selecting):
    """It belongs to the first harvest of a run; a further one is made only by its name."""

    @property
    def name(self) -> str:
        """The name shown in the UI."""
        return "it belongs to a run's first harvest"

    def select(self, context: _Context, keys: set[str]) -> Iterable[str]:  # noqa: ARG002
        """The partitions of first harvests."""
        return [key for key in keys if not is_further(run_of(key))]


@dataclass(frozen=True)
class StillMissing(_Selecting):
    """It has never been materialized.

    Dagster does not read all statuses of a tick at the same moment: a partition that is just
    finishing may appear neither materialized nor in progress.
    """

    @property
    def name(self) -> str:
        """The name shown in the UI."""
        return "it is still missing"

    def select(self, context: _Context, keys: set[str]) -> Iterable[str]:
        """The partitions without a materialization."""
        instance = context.asset_graph_view.instance
        event = dg.DagsterEventType.ASSET_MATERIALIZATION
        return keys - set(instance.get_latest_storage_id_by_partition(context.key, event, keys))


@dataclass(frozen=True)
class ShardRedone(_Selecting):
    """A shard is newer than this, and all shards of the plan can be summed."""

    @property
    def name(self) -> str:
        """The name shown in the UI."""
        return "a shard was made again"

    def select(self, context: _Context, keys: set[str]) -> Iterable[str]:
        """The runs whose shards are newer and complete."""
        instance = context.asset_graph_view.instance
        event = dg.DagsterEventType.ASSET_MATERIALIZATION
        made = instance.get_latest_storage_id_by_partition(context.key, event, keys)
        shards = instance.get_latest_storage_id_by_partition(asset_key(Asset.HARVEST_SHARD), event)
        newer: dict[str, set[str]] = {}
        for partition, number in shards.items():
            run, _, shard = partition.partition("|")
            if run in keys and number > made.get(run, number):
                newer.setdefault(run, set()).add(shard)
        return [key for key, names in newer.items() if _are_to_be_summed(key, names)]


@dataclass(frozen=True)
class NewlyPlanned(_Selecting):
    """A shard has no result for the plan, which is newer than what Dagster knows of the shard."""

    @property
    def name(self) -> str:
        """The name shown in the UI."""
        return "the plan was replaced by one that needs this shard"

    def select(self, context: _Context, keys: set[str]) -> Iterable[str]:
        """The shards that are to be made."""
        instance = context.asset_graph_view.instance
        return newly_planned_shards(instance, {run_of(key) for key in keys}).keys() & keys


@dataclass(frozen=True)
class AwaitsShards(_Selecting):
    """Shards of the plan are still to be made, though Dagster has a materialization of each."""

    @property
    def name(self) -> str:
        """The name shown in the UI."""
        return "shards of the new plan are to be made"

    def select(self, context: _Context, keys: set[str]) -> Iterable[str]:
        """The runs that have such shards."""
        instance = context.asset_graph_view.instance
        return newly_planned_shards(instance, keys).values()


@dataclass(frozen=True)
class WorkedOnElsewhere(_Selecting):
    """A command is harvesting the run, or a process holds the lease on this work."""

    @property
    def name(self) -> str:
        """The name shown in the UI."""
        return "another process works on it"

    def select(self, context: _Context, keys: set[str]) -> Iterable[str]:
        """The partitions whose leases are held."""
        is_shard = context.key.path[-1] == Asset.HARVEST_SHARD
        return [key for key in keys if _is_worked_on(key, is_shard=is_shard)]


@dataclass(frozen=True)
class InBackfill(_Selecting):
    """An unfinished backfill is to materialize it.

    For Dagster it is no longer in progress once the run of one of its inputs has failed. If that
    run is tried again, the backfill goes on with it.
    """

    @property
    def name(self) -> str:
        """The name shown in the UI."""
        return "a backfill is to materialize it"

    def select(self, context: _Context, keys: set[str]) -> Iterable[str]:
        """The partitions that an unfinished backfill has yet to make."""
        view = context.asset_graph_view
        return left_to_backfills(view.instance, view.asset_graph, context.key) & keys


def _are_to_be_summed(key: str, made_later: set[str]) -> bool:
    """Whether one of these shards has a share, and all shards of the plan exist."""
    try:
        paths = registration(key).layout
        plan = HarvestPlan.open(paths.root)
        return any(map(plan.has_shard, made_later)) and not ShardResults(paths).without_result(plan)
    except HarvestError:
        return False


def _is_worked_on(key: str, *, is_shard: bool) -> bool:
    if is_driven(run_of(key)):
        return True
    try:
        paths = registration(key).layout
        return is_held(paths.shard_lease(shard_of(key)) if is_shard else paths.merge_lease)
    except HarvestError:
        return False


def _when(due: _Condition, still_due: _Condition) -> _Condition:
    failed = dg.AutomationCondition.execution_failed()
    renewed = dg.AutomationCondition.any_deps_updated().since(failed.newly_true())
    return (
        due
        & ~dg.AutomationCondition.any_deps_missing()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
        & ~(failed & ~renewed.with_label("something it needs was made since it failed"))
        & IsFirst()
        & ~InBackfill()
        & ~WorkedOnElsewhere()
        & still_due
    )


_MISSING = dg.AutomationCondition.missing()
FOLLOW = _when(_MISSING, StillMissing())
BEGIN = FOLLOW & Admitted()
HARVEST = _when(_MISSING | NewlyPlanned(), StillMissing() | NewlyPlanned())
MERGE = _when(_MISSING | ShardRedone(), StillMissing() | ShardRedone()) & ~AwaitsShards()

harvest_automation = dg.AutomationConditionSensorDefinition(
    "harvest_automation",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING
    if UnattendedSettings.from_environment().automation
    else dg.DefaultSensorStatus.STOPPED,
    description=(
        "Harvests registered runs: builds each missing asset as soon as its inputs exist, "
        "at most HARVEST_MAX_ACTIVE_RUNS harvests at a time."
    ),
    # One run per partition, as everywhere; custom conditions are evaluated in the code server.
    emit_backfills=False,
    use_user_code_server=True,
)
