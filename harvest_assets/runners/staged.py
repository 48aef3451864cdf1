"""Harvests driven stage by stage, one run after another: prepare, shards side by side, merge.

A subclass decides where the Dagster runs of a stage are executed.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import dagster as dg

from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.errors import HarvestError
from harvest_assets.files.lease import hold_lease
from harvest_assets.files.manifest import disagreements
from harvest_assets.orchestration.harvest_config import prepare_config
from harvest_assets.orchestration.instance import add_run
from harvest_assets.orchestration.orphaned_runs import end_dead_runs
from harvest_assets.orchestration.partitions import RUN_DIMENSION, harvest_lease
from harvest_assets.orchestration.plan_changes import plan_changes
from harvest_assets.orchestration.progress import read_progress, read_tokenizing
from harvest_assets.runners.protocol import HarvestProgress, Watch
from harvest_assets.stages import Stage
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.preflight import require_disk
from harvest_assets.store.registry import Registration
from harvest_assets.store.resource_estimate import estimate_resources
from harvest_assets.store.shards import SHARD_KEYS, ShardResults, Work
from harvest_assets.store.shared_rows import SharedTokenRows
from harvest_assets.store.time_estimate import merge_seconds
from harvest_assets.wandb_client.run_files import fetch_run, is_here
from harvest_assets.wandb_client.run_name import LOCAL_ENTITY


@dataclass(frozen=True)
class StageRun:
    """One Dagster run of a stage.

    Args:
        stage: the job.
        partition: of the run, or of one of its shards.
        run_config: of the Dagster run.
    """

    stage: Stage
    partition: str
    run_config: Mapping[str, Any] = field(default_factory=dict)


class StagedRunner(ABC):
    """Harvests runs one after another; see `Runner`.

    Args:
        instance: where runs and materializations are recorded.

    Attributes:
        shards_are_here: whether shards work on this machine, which must have the memory for them.
    """

    shards_are_here: ClassVar[bool] = False

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance

    @abstractmethod
    def execute(
        self,
        registration: Registration,
        stage_runs: Sequence[StageRun],
        poll: Callable[[], None],
    ) -> None:
        """Execute Dagster runs side by side until all have ended.

        Args:
            registration: the run that is harvested.
            stage_runs: all of one stage.
            poll: called now and then.

        Raises:
            HarvestError: one of them failed.
        """

    def run(
        self,
        registrations: Sequence[Registration],
        settings: Mapping[str, Any],
        step: int | None,
        watch: Watch,
    ) -> Mapping[str, HarvestError]:
        """See `Runner.run`."""
        harvested: dict[str, float] = {}
        failed: dict[str, HarvestError] = {}

        def report(progress: HarvestProgress) -> None:
            watch(replace(progress, harvested=dict(harvested), failed=dict(failed)))

        for registration in registrations:
            started = time.monotonic()
            try:
                self._harvest(registration, settings, step, report)
                harvested[registration.key] = time.monotonic() - started
            except HarvestError as error:
                failed[registration.key] = error
            report(HarvestProgress())
        return failed

    def _harvest(
        self,
        registration: Registration,
        settings: Mapping[str, Any],
        step: int | None,
        watch: Watch,
    ) -> None:
        """Harvest one run.

        Raises:
            HarvestError: there is no such run, a stage failed, or another command is harvesting it.
        """
        key, root = registration.key, registration.layout.root
        reference = registration.reference
        if reference.name.entity == LOCAL_ENTITY and not is_here(reference):
            fetch_run(reference, step)  # raises; a mistyped name needs no process to find out
        is_new = add_run(self._instance, key)
        with hold_lease(harvest_lease(registration), f"The harvest of {key}"):
            end_dead_runs(self._instance)
            watch(HarvestProgress(Stage.PREPARE))
            config = prepare_config(settings, step, check_machine=self.shards_are_here)
            prepare = StageRun(Stage.PREPARE, key, config)
            poll = partial(_poll_tokenizing, registration, watch)
            try:
                self.execute(registration, [prepare], poll)
            except HarvestError:
                if is_new and not is_here(reference):  # perhaps a mistyped name
                    self._instance.delete_dynamic_partition(RUN_DIMENSION, key)
                raise
            changes = plan_changes(self._instance, [key])
            watch(HarvestProgress(Stage.PREPARE, changes=changes))
            plan = HarvestPlan.open(root)
            rows = SharedTokenRows.open(root)
            merging = self._harvest_shards(registration, plan, watch)
            tokens = plan.batches_seen(rows.n_rows) * plan.batch_size * plan.context_length
            watch(
                HarvestProgress(
                    Stage.MERGE, tokens_done=tokens, tokens=tokens, merge_seconds=merging
                )
            )
            self.execute(registration, [StageRun(Stage.MERGE, key)], _nothing)
            check_files(registration)

    def _harvest_shards(self, registration: Registration, plan: HarvestPlan, watch: Watch) -> float:
        """Harvest the shares that neither the merged state nor an earlier attempt covers.

        Returns:
            The seconds that merging takes, about.
        """
        paths = registration.layout
        work = Work.of(paths, plan)
        damage = work.merged.damage() if work.merged else []
        if damage:
            raise HarvestError(
                f"{' '.join(damage)} Remove {paths.merged} to harvest all rows again."
            )
        shares = [name for name in SHARD_KEYS if work.share(name)]
        names = [name for name in shares if work.reusable(paths, plan, name) is None]
        before = work.n_rows - sum(len(work.share(name)) for name in names)
        saved = {
            name: len(state.rows) for name, state in ShardResults(paths).saved_so_far(work).items()
        }
        checkpoint = open_decomposition(paths.root).restricted(plan.layers)
        needs = estimate_resources(plan, checkpoint, work.n_rows)
        merging = merge_seconds(needs, len(shares))
        require_disk(paths.root, needs, len(names))
        for name in names:
            paths.shard_progress(name).unlink(missing_ok=True)

        def poll() -> None:
            read = {name: read_progress(paths.shard_progress(name)) for name in names}
            parts = [part for part in read.values() if part is not None]
            rows = (part.rows_done if part else saved.get(name, 0) for name, part in read.items())
            done = (before + sum(rows)) * plan.context_length
            speed = sum(part.tokens_per_second for part in parts if part.rows_done < part.rows)
            tokens = work.n_rows * plan.context_length
            watch(
                HarvestProgress(
                    Stage.HARVEST,
                    tokens_done=done,
                    tokens=tokens,
                    tokens_per_second=speed,
                    merge_seconds=merging,
                )
            )

        shards = [StageRun(Stage.HARVEST, f"{registration.key}|{name}") for name in names]
        self.execute(registration, shards, poll)
        return merging


def check_files(registration: Registration) -> None:
    """Check that the five files are complete and belong together.

    Raises:
        HarvestError: they do not.
    """
    problems = disagreements(registration.layout)
    if problems:
        raise HarvestError(" ".join(problems))


def _poll_tokenizing(registration: Registration, watch: Watch) -> None:
    found = read_tokenizing(registration.layout.tokenizing_progress)
    if found is not None:
        watch(HarvestProgress(Stage.PREPARE, texts_done=found.rows_done, texts=found.rows or 0))


def _nothing() -> None:
    """For stages that report no progress."""
