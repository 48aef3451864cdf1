"""Dagster runs whose process died together with the daemon, as when a machine loses power.

Dagster notices a process that dies while its code server lives. Nobody notices one that died with
it: its run would stay in progress forever, and its place in the pool taken.
"""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import psutil

from harvest_assets.files.atomic import process_is_alive
from harvest_assets.files.filesystems import network_filesystem


def end_orphaned_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs as failed whose process no longer exists; the daemon then tries them again.

    Only where the instance is of one machine: its databases are SQLite files on a disk.

    Args:
        instance: whose daemon is about to start.

    Returns:
        The ids of these runs.
    """
    home = Path(instance.root_directory)
    storage = type(instance.run_storage).__name__
    if "sqlite" not in storage.lower() or network_filesystem(home) is not None:
        return []
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
    ended = []
    for record in instance.get_run_records(started):
        run = record.dagster_run
        pid = worker_pid(instance, run.run_id)
        if pid is None or _is_at_work(pid, record.start_time):
            continue
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        instance.report_run_failed(run, "The process that executed the run no longer exists.")
        ended.append(run.run_id)
    return ended


def worker_pid(instance: dg.DagsterInstance, run_id: str) -> int | None:
    """The process that a code server started for a run; None if none did."""
    for entry in instance.all_logs(run_id, dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        pid = None if event is None else event.engine_event_data.metadata.get("pid")
        if pid is not None:
            return int(str(pid.value))
    return None


def _is_at_work(pid: int, started_at: float | None) -> bool:
    """Whether the process exists and is no later one of the same number."""
    if not process_is_alive(pid):
        return False
    try:
        return started_at is None or psutil.Process(pid).create_time() <= started_at
    except psutil.Error:
        return False
