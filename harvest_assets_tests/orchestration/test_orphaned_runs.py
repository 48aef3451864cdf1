"""Runs whose process died with the daemon are noticed when the next daemon starts."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.storage.tags import WILL_RETRY_TAG

from harvest_assets.definitions import defs
from harvest_assets.orchestration.orphaned_runs import end_orphaned_runs

RETRIES = {"run_retries": {"enabled": True, "max_retries": 3}}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=RETRIES) as instance:
        yield instance


def started(instance: dg.DagsterInstance, pid: int, at: float) -> str:
    """A run that a code server has started in this process, at this time."""
    run = instance.create_run_for_job(
        defs.resolve_job_def("merge"), status=dg.DagsterRunStatus.STARTING
    )
    instance.report_engine_event("Started process", run, EngineEventData.in_process(pid))
    start = DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name)
    instance.report_dagster_event(start, run.run_id, timestamp=at)
    return run.run_id


def test_a_run_whose_process_died_is_tried_again(instance: dg.DagsterInstance):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        at_work = started(instance, process.pid, time.time() + 1)
        # Its number is that of a process which was started after the run.
        reused = started(instance, process.pid, time.time() - 3600)
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        died = started(instance, gone.pid, time.time())
        assert set(end_orphaned_runs(instance)) == {reused, died}
        assert end_orphaned_runs(instance) == []
        assert instance.get_run_by_id(at_work).status == dg.DagsterRunStatus.STARTED
    finally:
        process.kill()
        process.wait()
    assert end_orphaned_runs(instance) == [at_work]
    for run_id in (at_work, reused, died):
        run = instance.get_run_by_id(run_id)
        assert run.status == dg.DagsterRunStatus.FAILURE
        assert run.tags[WILL_RETRY_TAG] == "true"
