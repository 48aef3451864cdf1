"""A whole harvest on this machine: prepare, shards side by side, merge.

Every stage is a Dagster run in a process of its own on the instance that the UI shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from harvest_assets.decompositions.spd.run_checkpoint import RunCheckpoint
from harvest_assets.errors import HarvestError
from harvest_assets.files.free_space import require_free
from harvest_assets.files.lease import hold_lease
from harvest_assets.files.manifest import disagreements
from harvest_assets.orchestration.failures import MAX_RETRIES
from harvest_assets.orchestration.harvest_config import prepare_config
from harvest_assets.orchestration.instance import (
    add_run,
    end_dead_runs,
    make_room_for_shards,
    shards_at_once,
)
from harvest_assets.orchestration.partitions import harvest_lease
from harvest_assets.orchestration.plan_changes import plan_changes
from harvest_assets.orchestration.progress import read_progress
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.registry import Registration
from harvest_assets.store.resource_estimate import least_disk
from harvest_assets.store.shards import SHARD_KEYS, Work
from harvest_assets.store.shared_rows import SharedTokenRows
from harvest_assets.system.gpus import count_gpus
from harvest_assets.system.stopping import interrupts_held

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class StageStatus:
    """What is going on, for a progress display.

    Args:
        stage: `prepare`, `harvest` or `merge`.
        rows_done: rows harvested by all shards together.
        rows: rows of the harvest; 0 until it is known.
        tokens_per_row: tokens of a row.
        tokens_per_second: of the shards at work, together.
        changes: what a new plan changes and what is done again, by run.
    """

    stage: str
    rows_done: int = 0
    rows: int = 0
    tokens_per_row: int = 0
    tokens_per_second: float = 0.0
    changes: Mapping[str, str] = field(default_factory=dict)


Watcher = Callable[[StageStatus], None]


@dataclass(frozen=True)
class Stage:
    """What one Dagster run does.

    Args:
        job: `prepare`, `harvest` or `merge`.
        partition: of the run, or of one of its shards.
        run_config: of the Dagster run.
    """

    job: str
    partition: str
    run_config: Mapping[str, Any] = field(default_factory=dict)


# Works on stages side by side until all are done, and calls the function now and then; raises a
# `HarvestError` if one failed.
WorkOn = Callable[[Registration, Sequence[Stage], Callable[[], None]], None]


def harvest_locally(
    registration: Registration,
    instance: dg.DagsterInstance,
    settings: Mapping[str, Any],
    step: int | None,
    watch: Watcher,
) -> HarvestPlan:
    """Harvest one run on this machine; see `harvest_with`."""
    make_room_for_shards(instance)
    return harvest_with(work_here, registration, instance, settings, step, watch)


def harvest_with(
    work_on: WorkOn,
    registration: Registration,
    instance: dg.DagsterInstance,
    settings: Mapping[str, Any],
    step: int | None,
    watch: Watcher,
) -> HarvestPlan:
    """Harvest one run.

    Args:
        work_on: works on the stages.
        registration: the run and its folder.
        instance: where runs and materializations are recorded.
        settings: of `HarvestConfig`; what is omitted stays as in the stored plan.
        step: of the checkpoint; see `prepare_config`.
        watch: called a few times a second.

    Returns:
        The plan that was carried out; all five files stand complete.

    Raises:
        HarvestError: a stage failed, or another command harvests the run now.
    """
    add_run(instance, registration.key)
    with hold_lease(harvest_lease(registration), f"The harvest of {registration.key}"):
        return _harvest(work_on, registration, instance, settings, step, watch)


def _harvest(
    work_on: WorkOn,
    registration: Registration,
    instance: dg.DagsterInstance,
    settings: Mapping[str, Any],
    step: int | None,
    watch: Watcher,
) -> HarvestPlan:
    end_dead_runs(instance)
    watch(StageStatus("prepare"))
    run_config = prepare_config(settings, step)
    work_on(registration, [Stage("prepare", registration.key, run_config)], _nothing)
    watch(StageStatus("prepare", changes=plan_changes(instance, [registration.key])))
    plan = HarvestPlan.open(registration.layout.root)
    rows = SharedTokenRows.open(registration.layout.root)
    _harvest_shards(work_on, registration, plan, watch)
    total = plan.batches_seen(rows.n_rows) * plan.batch_size
    watch(StageStatus("merge", total, total, plan.context_length))
    work_on(registration, [Stage("merge", registration.key)], _nothing)
    _check_files(registration)
    return plan


def _nothing() -> None:
    """Of a stage that does not tell how far it is."""


def _harvest_shards(
    work_on: WorkOn, registration: Registration, plan: HarvestPlan, watch: Watcher
) -> None:
    """Harvest what is not there yet: neither merged nor finished by an earlier attempt."""
    paths = registration.layout
    work = Work.of(paths, plan)
    damage = work.merged.damage() if work.merged else []
    if damage:
        raise HarvestError(f"{' '.join(damage)} Remove {paths.merged} to harvest all rows anew.")
    shares = [name for name in SHARD_KEYS if work.share(name)]
    names = [name for name in shares if work.standing(paths, plan, name) is None]
    before = work.n_rows - sum(len(work.share(name)) for name in names)
    checkpoint = RunCheckpoint.open(paths.root)
    require_free(paths.root, least_disk(checkpoint.layers, checkpoint.vocab_size, len(names)))
    for name in names:
        paths.shard_progress(name).unlink(missing_ok=True)

    def look() -> None:
        read = [read_progress(paths.shard_progress(name)) for name in names]
        parts = [part for part in read if part is not None]
        done = before + sum(part.rows_done for part in parts)
        speed = sum(part.tokens_per_second for part in parts if part.rows_done < part.rows)
        watch(StageStatus("harvest", done, work.n_rows, plan.context_length, speed))

    work_on(registration, [Stage("harvest", f"{registration.key}|{name}") for name in names], look)


def work_here(
    registration: Registration, stages: Sequence[Stage], look: Callable[[], None]
) -> None:
    """Work on stages in processes of this machine, as many at once as suit it.

    Raises:
        HarvestError: a stage failed; the others were stopped.
    """
    at_once = min(len(stages), shards_at_once()) if len(stages) > 1 else 1
    environment = _share_of_machine(at_once) if stages and stages[0].job == "harvest" else {}
    with _processes() as start:
        waiting = list(stages)
        working: list[_Process] = []
        while waiting or working:
            while waiting and len(working) < at_once:
                stage = waiting.pop(0)
                working.append(
                    start(registration, stage.job, stage.partition, stage.run_config, environment)
                )
            working = _still_working(working)
            look()
            time.sleep(_POLL_SECONDS)


def _share_of_machine(at_once: int) -> dict[str, str]:
    """The cores of each shard, where there is no GPU; of GPUs each takes one that is free."""
    if count_gpus():
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // at_once))}


@dataclass
class _Process:
    """A stage at work."""

    popen: subprocess.Popen[str]
    partition: str
    log: Path

    def check(self) -> None:
        """See that the stage, which has ended, ended well.

        Raises:
            HarvestError: it did not.
        """
        out = (self.popen.stdout.read() if self.popen.stdout else "").strip().splitlines()
        trace = ""
        try:
            answer = json.loads(out[-1])
            error, trace = answer["error"], answer["traceback"]
        except (IndexError, ValueError, KeyError, TypeError):
            error = (
                f"The process that worked on {self.partition} ended with status "
                f"{self.popen.returncode}; its log is {self.log}."
            )
        if error:
            failure = HarvestError(str(error))
            if trace:  # `--debug` prints notes
                failure.add_note(f"In the stage's process:\n{trace}")
            raise failure


Start = Callable[..., _Process]


@contextmanager
def _processes() -> Iterator[Start]:
    """Gives a function that starts stages; whatever is still at work in the end is stopped."""
    started: list[_Process] = []

    def start(
        registration: Registration,
        job: str,
        partition: str,
        run_config: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
    ) -> _Process:
        stage = f"{job}-{partition.partition('|')[2]}" if "|" in partition else job
        log = registration.layout.log(stage)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)  # were it a link, what it leads to would be overwritten
        command = [sys.executable, "-m", "harvest_assets.runners.worker", job, partition]
        # A process that was started is known to be, and waited for: its state is being saved.
        with log.open("w", encoding="utf-8") as stderr, interrupts_held():
            popen = subprocess.Popen(
                [*command, json.dumps(run_config)],
                stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, MAX_RETRIES: "0", **(environment or {})},
            )
            process = _Process(popen, partition, log)
            started.append(process)
        return process

    try:
        yield start
    finally:
        with interrupts_held():
            for process in started:
                if process.popen.poll() is None:
                    process.popen.terminate()
            for process in started:
                process.popen.wait()


def _still_working(processes: Sequence[_Process]) -> list[_Process]:
    working = []
    for process in processes:
        if process.popen.poll() is None:
            working.append(process)
        else:
            process.check()
    return working


def _check_files(registration: Registration) -> None:
    problems = disagreements(registration.layout)
    if problems:
        raise HarvestError(" ".join(problems))
