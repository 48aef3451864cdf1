"""Dagster runs whose process died, alone or together with the daemon when a machine loses power.

A process that dies while its code server lives is noticed by Dagster. The run of any other would
stay in progress forever, and its place in the pool taken.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import dagster as dg

from harvest_assets.files.atomic import host_name, process_is_alive
from harvest_assets.files.lease import process_started
from harvest_assets.orchestration.slurm.jobs import JOB_TAG
from harvest_assets.orchestration.slurm.requeue import is_a_job

_MAX_SECONDS_TO_RECORD = 600.0  # of a run's process, from its start
_LOG = logging.getLogger(__name__)
_HOST, _PID, _STARTED = (f"harvest_assets/{name}" for name in ("host", "pid", "started"))


def owner_tags() -> dict[str, str]:
    """Tags of a run that identify this process, which executes it."""
    return {
        _HOST: host_name(),
        _PID: str(os.getpid()),
        _STARTED: process_started(os.getpid()) or "unknown",
    }


def record_owner(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Tag a run with this process, which executes it.

    Jobs of a cluster have a sensor that watches them, and outlive their process when requeued.
    """
    tags = owner_tags()
    if not is_a_job() and not tags.items() <= run.tags.items():
        instance.add_run_tags(run.run_id, tags)


@contextmanager
def dead_runs_ended(instance: dg.DagsterInstance, every: float = 60.0) -> Iterator[None]:
    """End dead runs now, and while the block runs.

    Args:
        instance: whose runs they are.
        every: seconds between two looks. A run is ended by the second that finds it dead, so that
            Dagster, which notices most of them within seconds, does not do so as well.
    """
    over = threading.Event()

    def watch() -> None:
        dead: Collection[str] = ()
        while not over.wait(every):
            try:
                ended = end_dead_runs(instance, dead)
                dead = {run.run_id for run in _dead_runs(instance)}
            except Exception as error:  # noqa: BLE001  the database may be away for a while
                _LOG.warning("Runs of dead processes could not be looked for: %s", error)
            else:
                for run_id in ended:
                    _LOG.warning("The process of run %s no longer exists.", run_id)

    end_dead_runs(instance)
    thread = threading.Thread(target=watch, name="dead-runs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def end_dead_runs(instance: dg.DagsterInstance, among: Collection[str] | None = None) -> list[str]:
    """Mark runs as failed whose process on this machine no longer exists, and free their places.

    Where runs are retried, the daemon then tries them again. The places of runs that ended before
    are freed too: a process that is killed leaves its own taken.

    Args:
        instance: whose runs they are.
        among: ids of the runs that may be ended; None: all.

    Returns:
        The ids of these runs.
    """
    dead = [run for run in _dead_runs(instance) if among is None or run.run_id in among]
    for run in dead:
        instance.report_run_failed(run, "The process that executed the run no longer exists.")
    holding = list(instance.event_log_storage.get_concurrency_run_ids())
    if holding:
        for run in instance.get_runs(dg.RunsFilter(run_ids=holding)):
            if run.is_finished:
                instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in dead]


def _dead_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    started = instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    return [record.dagster_run for record in started if _is_dead(instance, record)]


def _is_dead(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    run = record.dagster_run
    if _HOST not in run.tags or _owner_is_of_parent(instance, run):
        late = time.time() - (record.start_time or math.inf) > _MAX_SECONDS_TO_RECORD
        return late and _records_its_owner(run)
    if run.tags[_HOST] != host_name():
        return False
    pid = int(run.tags[_PID])
    same = (process_started(pid) or "unknown") == run.tags[_STARTED]
    return not (process_is_alive(pid) and same)


def _records_its_owner(run: dg.DagsterRun) -> bool:
    """Whether a process that executes the run records itself: not a job, nor others' code."""
    origin = run.job_code_origin
    pointer = origin and origin.repository_origin.code_pointer
    module = getattr(pointer, "module", "")
    return module.partition(".")[0] == __package__.partition(".")[0] and JOB_TAG not in run.tags


def _owner_is_of_parent(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the tags were copied from the run that this one retries, so its own are to come."""
    parent = instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
    return parent is not None and all(
        parent.tags.get(tag) == run.tags[tag] for tag in (_HOST, _PID, _STARTED)
    )
