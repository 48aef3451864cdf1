"""Harvests that the Dagster daemon drives: submitted as one backfill, and followed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
import dagster as dg

from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.backfills import daemon_is_alive, submit
from harvest_assets.orchestration.dagster_private import BaseAssetGraph, BulkActionStatus
from harvest_assets.orchestration.harvests import HarvestStatus, harvests_of
from harvest_assets.orchestration.instance import add_run
from harvest_assets.orchestration.jobs import asset_key
from harvest_assets.orchestration.plan_changes import plan_changes
from harvest_assets.orchestration.progress import Progress, read_progress
from harvest_assets.orchestration.run_failures import failure_in
from harvest_assets.runners.protocol import HarvestProgress, Watch
from harvest_assets.runners.staged import check_files
from harvest_assets.stages import Asset
from harvest_assets.store.registry import Registration
from harvest_assets.store.shards import SHARD_KEYS
from harvest_assets.store.time_estimate import merge_seconds_of

_POLL_SECONDS = 1.0
_OVER = (
    BulkActionStatus.COMPLETED,
    BulkActionStatus.COMPLETED_SUCCESS,
    BulkActionStatus.COMPLETED_FAILED,
    BulkActionStatus.FAILED,
    BulkActionStatus.CANCELED,
)


class DaemonRunner:
    """Submits all runs as one backfill and follows it; see `Runner`.

    Args:
        instance: of the daemon.
        graph: the asset graph.
        rebuild: whether existing plans are made again; else only what is missing is made.
    """

    def __init__(
        self, instance: dg.DagsterInstance, graph: BaseAssetGraph[Any], *, rebuild: bool
    ) -> None:
        self._instance = instance
        self._graph = graph
        self._rebuild = rebuild

    def run(
        self,
        registrations: Sequence[Registration],
        settings: Mapping[str, Any],
        step: int | None,
        watch: Watch,
    ) -> Mapping[str, HarvestError]:
        """See `Runner.run`.

        Raises:
            HarvestError: one of the runs is queued or in progress already, or the daemon stopped.
            KeyboardInterrupt: the command was interrupted; the daemon continues.
        """
        backfill_id = self._submit([it.key for it in registrations], settings, step)
        click.echo(f"This is backfill {backfill_id}; harvest-assets ui shows it.", err=True)
        backfill = _Backfill(self._instance, self._graph, backfill_id, registrations)
        try:
            return backfill.follow(watch)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"Stopped watching; the daemon continues with backfill {backfill_id}.\n"
                "  harvest-assets ui                  shows it, and can end it\n"
                "  harvest-assets backfill --dry-run  lists the status of each run"
            ) from None

    def _submit(self, keys: list[str], settings: Mapping[str, Any], step: int | None) -> str:
        busy = [
            it.key
            for it in harvests_of(self._instance, self._graph, keys)
            if it.status is HarvestStatus.IN_PROGRESS
        ]
        if busy:
            raise HarvestError(
                f"{', '.join(busy)} is queued or in progress already: harvest-assets ui "
                "shows it, and can end it."
            )
        for key in keys:
            add_run(self._instance, key)
        return submit(
            self._instance,
            self._graph,
            keys,
            title=f"Harvest of {keys[0] if len(keys) == 1 else f'{len(keys)} runs'}",
            settings=settings,
            step=step,
            rebuild=self._rebuild,
        )


class _Backfill:
    """A backfill that the daemon executes.

    Args:
        instance: of the daemon.
        graph: the asset graph.
        backfill_id: its id.
        registrations: the runs that it harvests.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        graph: BaseAssetGraph[Any],
        backfill_id: str,
        registrations: Sequence[Registration],
    ) -> None:
        self._instance = instance
        self._graph = graph
        self._id = backfill_id
        self._registrations = {it.key: it for it in registrations}
        self._harvested: dict[str, float] = {}
        self._failed: dict[str, HarvestError] = {}

    def follow(self, watch: Watch) -> Mapping[str, HarvestError]:
        """Watch until the backfill has ended; return why runs were not harvested.

        Raises:
            HarvestError: the daemon stopped, or the backfill was deleted.
        """
        while True:
            over = self._poll(watch)
            if over:
                return self._failed
            if not daemon_is_alive(self._instance):
                raise HarvestError(
                    f"The Dagster daemon stopped; backfill {self._id} continues when it is started "
                    "again: harvest-assets ui"
                )
            time.sleep(_POLL_SECONDS)

    def _poll(self, watch: Watch) -> bool:
        """Report the progress; return whether the backfill has ended."""
        backfill = self._instance.get_backfill(self._id)
        if backfill is None:
            raise HarvestError(f"Backfill {self._id} was deleted.")
        started = backfill.backfill_timestamp
        done = backfill.get_asset_backfill_data(self._graph).materialized_subset
        last = asset_key(Asset.MERGED_STATE)
        for part in done.iterate_asset_partitions():
            if part.asset_key == last and part.partition_key in self._registrations:
                self._finish(part.partition_key, time.time() - started)
        over = backfill.status in _OVER
        working = self._registrations.keys() - self._harvested.keys() - self._failed.keys()
        if over:
            reasons = _reasons(self._instance, self._id)
            other = f"backfill {self._id} ended as {backfill.status.value}"
            for key in working:
                self._failed[key] = HarvestError(reasons.get(key, other))
        shards = self._shards(working, started)
        layouts = [self._registrations[key].layout for key in working] if shards else []
        watch(
            HarvestProgress(
                harvested=dict(self._harvested),
                failed=dict(self._failed),
                tokens_done=sum(it.rows_done * it.tokens_per_row for it in shards),
                tokens=sum(it.rows * it.tokens_per_row for it in shards),
                tokens_per_second=sum(
                    it.tokens_per_second for it in shards if it.rows_done < it.rows
                ),
                merge_seconds=sum(map(merge_seconds_of, layouts)),
                changes=plan_changes(self._instance, list(self._registrations), started),
            )
        )
        return over

    def _finish(self, key: str, seconds: float) -> None:
        """Check the files of a run, once."""
        if key in self._harvested or key in self._failed:
            return
        try:
            check_files(self._registrations[key])
            self._harvested[key] = seconds
        except HarvestError as error:
            self._failed[key] = error

    def _shards(self, keys: set[str], since: float) -> list[Progress]:
        """The progress of the shards that have run since a time."""
        found = []
        for key in keys:
            for name in SHARD_KEYS:
                path = self._registrations[key].layout.shard_progress(name)
                try:
                    fresh = path.stat().st_mtime >= since
                except OSError:
                    continue
                progress = read_progress(path) if fresh else None
                if progress is not None:
                    found.append(progress)
        return found


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
