"""Dagster runs whose process died, alone or together with the daemon when a machine loses power.

A process that dies while its code server lives is noticed by Dagster, but it does not release its
place in a pool. The run of any other would stay in progress forever.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import dagster as dg

from harvest_assets.files.atomic import host_name, process_is_alive
from harvest_assets.files.lease import process_started
from harvest_assets.orchestration.dagster_private import GRPC_INFO_TAG
from harvest_assets.orchestration.slurm.requeue import is_a_job

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
    """End dead runs now, and while the block runs; for the machine of the daemon.

    Args:
        instance: whose runs they are.
        every: seconds between two looks. After the first one, a run is ended only if two looks in
            a row find it dead, so that Dagster, which notices most deaths within seconds, can act
            first.
    """
    over = threading.Event()

    def watch() -> None:
        dead: Collection[str] = ()
        problem = ""
        while not over.wait(every):
            try:
                ended = end_dead_runs(instance, dead)
                dead = {run.run_id for run in (*_dead_runs(instance), *_lost_runs(instance))}
                problem = ""
            except Exception as error:  # noqa: BLE001  the database may be away for a while
                if str(error) != problem:
                    problem = str(error)
                    _LOG.warning("Could not check for runs whose process has died: %s", problem)
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
        thread.join(timeout=5)  # the database may not answer


def end_dead_runs(instance: dg.DagsterInstance, found: Collection[str] | None = None) -> list[str]:
    """Mark runs as failed whose process on this machine no longer exists, and free their places.

    Where runs are retried, the daemon then tries them again. The places of runs that ended before
    their process died are freed too.

    Args:
        instance: whose runs they are.
        found: ids of runs found dead before: only these are ended, also those whose process had yet
            to record itself. None: all whose process recorded itself.

    Returns:
        The ids of these runs.
    """
    dead = _dead_runs(instance)
    if found is not None:
        dead = [run for run in (*dead, *_lost_runs(instance)) if run.run_id in found]
    ended = [run.run_id for run in dead if _end(instance, run.run_id)]
    holding = list(instance.event_log_storage.get_concurrency_run_ids())
    for run in instance.get_runs(dg.RunsFilter(run_ids=holding)) if holding else ():
        if run.is_finished and _has_dead_owner(run):
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return ended


def _end(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Mark a run as failed, unless it ended since it was found; whether it did not."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.status != dg.DagsterRunStatus.STARTED:
        return False
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)
    instance.report_run_failed(run, "The process that executed the run no longer exists.")
    return True


def _dead_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """The runs whose process recorded itself on this machine, and has died."""
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags={_HOST: host_name()})
    return [
        run
        for run in instance.get_runs(started)
        if _has_dead_owner(run) and not _owner_is_unknown(instance, run)
    ]


def _lost_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """The runs whose process has yet to record itself, and has died.

    Its code server notices, unless that died too, alone or with the machine.
    """
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
    return [
        run
        for run in instance.get_runs(started)
        if _owner_is_unknown(instance, run)
        and _is_of_code_server_here(run)
        and not _may_be_alive(instance, run)
    ]


def _has_dead_owner(run: dg.DagsterRun) -> bool:
    if run.tags.get(_HOST) != host_name():
        return False
    pid = int(run.tags[_PID])
    same = (process_started(pid) or "unknown") == run.tags[_STARTED]
    return not (process_is_alive(pid) and same)


def _is_of_code_server_here(run: dg.DagsterRun) -> bool:
    """Whether the code server that started the run is one of the daemon's own machine."""
    return "socket" in json.loads(run.tags.get(GRPC_INFO_TAG, "{}"))


def _may_be_alive(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether one of the processes that were started for a run may be running."""
    events = (
        entry.dagster_event
        for entry in instance.all_logs(run.run_id, dg.DagsterEventType.ENGINE_EVENT)
    )
    found = (event.engine_event_data.metadata.get("pid") for event in events if event is not None)
    pids = [int(str(pid.value)) for pid in found if pid is not None]
    return not pids or any(process_is_alive(pid) for pid in pids)


def _owner_is_unknown(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the tags are missing, or may have been copied from the run that this one retries."""
    if _HOST not in run.tags:
        return True
    parent = instance.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
    if parent is None:
        return run.parent_run_id is not None
    return all(parent.tags.get(tag) == run.tags.get(tag) for tag in (_HOST, _PID, _STARTED))
