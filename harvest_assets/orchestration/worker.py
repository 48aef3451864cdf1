"""One stage of a harvest in a process of its own: a Dagster run that the UI shows.

Started as `python -m harvest_assets.orchestration.worker JOB PARTITION [RUN_CONFIG]`. The last line
on stdout is JSON: `{"error": sentence or null}`. Its stdin is a pipe from the process that started
it: when that process is gone, the worker saves what it has and ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

import dagster as dg

from harvest_assets.orchestration.failures import SKIPPED
from harvest_assets.orchestration.partitions import partition_key
from harvest_assets.stopping import hangup_terminates

_ENDS = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED)


def _stop(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _stop_without_parent() -> None:
    """Wait for the end of stdin; nobody is left who would merge what this process harvests."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def failure_of(result: dg.ExecuteInProcessResult) -> str | None:
    """Why a run failed, or who else does its work, in a sentence; None if it was done."""
    return failure_in(result.all_events, success=result.success)


def failure_in(events: Sequence[dg.DagsterEvent], *, success: bool) -> str | None:
    """The same for the events of a run that another process has executed."""
    for event in events:
        if event.event_type == dg.DagsterEventType.ASSET_OBSERVATION:
            told = event.asset_observation_data.asset_observation.metadata.get(SKIPPED)
            if told is not None:
                return str(told.value)
    if success:
        return None
    for event in events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data is not None and data.user_failure_data.description:
                return str(data.user_failure_data.description)
            if data.error is not None:
                return _innermost(data.error)
    ends = [event.message for event in events if event.event_type in _ENDS and event.message]
    return ends[-1] if ends else "The run failed; its log says why."


def _innermost(error: Any) -> str:
    while error.cause is not None:
        error = error.cause
    return str(error.message).strip()


def execute(job_name: str, partition: str, run_config: dict[str, Any]) -> str | None:
    """Execute a job for a partition; answers the sentence that says why it failed, if it did."""
    from harvest_assets.definitions import defs
    from harvest_assets.orchestration.instance import owner_tags

    with dg.DagsterInstance.get() as instance:
        result = defs.resolve_job_def(job_name).execute_in_process(
            instance=instance,
            partition_key=partition_key(partition),
            run_config=run_config,
            tags=owner_tags(),
            raise_on_error=False,
        )
        return failure_of(result)


def main() -> None:
    """The process."""
    # Dagster marks a run that is interrupted as such; it knows of SIGINT only.
    signal.signal(signal.SIGTERM, _stop)
    hangup_terminates()
    threading.Thread(target=_stop_without_parent, daemon=True).start()
    job_name, partition, *rest = sys.argv[1:]
    error = execute(job_name, partition, json.loads(rest[0]) if rest else {})
    sys.stdout.write("\n" + json.dumps({"error": error}) + "\n")
    sys.exit(1 if error else 0)


if __name__ == "__main__":
    main()
