"""One stage of a harvest in a process of its own: a Dagster run that the UI shows.

Started as `python -m harvest_assets.runners.worker STAGE PARTITION [RUN_CONFIG]`. The last line on
stdout is JSON: `{"error": sentence or null, "traceback": text, empty if there is none}`. If stdin
is a pipe, it comes from the process that started the worker: when that process is gone, the worker
saves what it has and ends.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import threading
import traceback
from types import FrameType
from typing import Any

import dagster as dg

from harvest_assets.errors import HarvestError, innermost
from harvest_assets.files.sanitize import (
    MAX_TRACEBACK,
    presentable,
    presentable_traceback,
    redact_uncaught_errors,
)
from harvest_assets.orchestration.partitions import partition_key
from harvest_assets.orchestration.run_failures import failure_of, traceback_in
from harvest_assets.system.stopping import hangup_terminates


def _stop(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _stop_without_parent() -> None:
    """Wait for the end of stdin: after that, no process would merge what this one harvests."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def execute(job_name: str, partition: str, run_config: dict[str, Any]) -> tuple[str | None, str]:
    """Execute a job for a partition.

    Returns:
        One sentence that says why it failed, or None, and the traceback.
    """
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
        failure = failure_of(result)
        return failure, traceback_in(result.all_events) if failure else ""


def main() -> None:
    """The process."""
    redact_uncaught_errors()
    # Dagster marks an interrupted run as such, but handles SIGINT only.
    signal.signal(signal.SIGTERM, _stop)
    hangup_terminates()
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_stop_without_parent, daemon=True).start()
    job_name, partition, *rest = sys.argv[1:]
    try:
        error, trace = execute(job_name, partition, json.loads(rest[0]) if rest else {})
    except Exception as raised:  # noqa: BLE001  whatever stops Dagster before the run
        cause = innermost(raised)
        ours = isinstance(cause, HarvestError)
        error = str(cause) if ours else "".join(traceback.format_exception_only(cause)).strip()
        trace = presentable_traceback(raised)
        sys.stderr.write(trace)
    answer = {
        "error": error and presentable(error),
        "traceback": presentable(trace, MAX_TRACEBACK),
    }
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    sys.exit(1 if error else 0)


if __name__ == "__main__":
    main()
