"""A process that executes stages of a harvest: each is a Dagster run that the UI shows.

`python -m harvest_assets.runners.worker STAGE PARTITION [RUN_CONFIG]` executes one. Without
arguments it stays and executes what it is sent, one after another in its main thread: each line on
stdin is JSON, `{"stage": ..., "partition": ..., "run_config": ..., "log": file for stderr}`.

For each stage a line on stdout answers: `{"error": sentence or null, "traceback": text, empty if
there is none}`. If stdin is a pipe, it comes from the process that started the worker: when that
process is gone, the worker saves what it has and ends.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import signal
import stat
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import dagster as dg

from harvest_assets.errors import HarvestError, innermost
from harvest_assets.files.sanitize import (
    MAX_TRACEBACK,
    presentable,
    presentable_traceback,
    redact_uncaught_errors,
)
from harvest_assets.orchestration.partitions import partition_key
from harvest_assets.orchestration.run_failures import (
    failure_of,
    traceback_in,
    was_interrupted,
)
from harvest_assets.system.stopping import hangup_terminates


def _stop(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _follow_stdin(receive: Callable[[str], None]) -> None:
    """Receive lines until stdin ends: after that, no process would merge what this one harvests.

    A stage may catch the signal, to save its work; the empty line ends the process after it.
    """
    # Unbuffered: Python aborts at its end if a thread waits in the buffer of `sys.stdin`.
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        for line in stdin:
            receive(line.decode())
    receive("")
    os.kill(os.getpid(), signal.SIGTERM)


class Executed(NamedTuple):
    """How a job ended.

    Args:
        failure: one sentence that says why it failed; None if it did not.
        trace: the traceback; empty if there is none.
        is_interrupted: whether a signal to this process ended it.
    """

    failure: str | None
    trace: str = ""
    is_interrupted: bool = False


def execute(job_name: str, partition: str, run_config: dict[str, Any]) -> Executed:
    """Execute a job for a partition."""
    from harvest_assets.definitions import defs
    from harvest_assets.orchestration.orphaned_runs import owner_tags

    with dg.DagsterInstance.get() as instance:
        result = defs.resolve_job_def(job_name).execute_in_process(
            instance=instance,
            partition_key=partition_key(partition),
            run_config=run_config,
            tags=owner_tags(),
            raise_on_error=False,
        )
        failure, events = failure_of(result), result.all_events
        if failure is None:
            return Executed(None)
        return Executed(failure, traceback_in(events), was_interrupted(events))


def _answer(job_name: str, partition: str, run_config: dict[str, Any]) -> dict[str, str | None]:
    """Execute a job; the answer for the process that waits for it."""
    try:
        error, trace, _ = execute(job_name, partition, run_config)
    except Exception as raised:  # noqa: BLE001  whatever stops Dagster before the run
        cause = innermost(raised)
        ours = isinstance(cause, HarvestError)
        error = str(cause) if ours else "".join(traceback.format_exception_only(cause)).strip()
        trace = presentable_traceback(raised)
        sys.stderr.write(trace)
    return {
        "error": error and presentable(error),
        "traceback": presentable(trace, MAX_TRACEBACK),
    }


def _serve() -> None:
    """Execute the stages that arrive on stdin, until it ends or a signal arrives."""
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_follow_stdin, args=(requests.put,), daemon=True).start()
    stopped = suppress(KeyboardInterrupt, BrokenPipeError)  # nobody reads the answer any longer
    with stopped, os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        while line := requests.get():
            request = json.loads(line)
            with Path(request["log"]).open("a", encoding="utf-8") as log:
                for descriptor in (1, 2):  # what libraries print must not mix with answers
                    os.dup2(log.fileno(), descriptor)
            answer = _answer(request["stage"], request["partition"], request["run_config"])
            _release_memory()
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def _release_memory() -> None:
    """Free the model of a stage; PyTorch would keep its memory on a GPU that others wait for."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def main() -> None:
    """The process."""
    redact_uncaught_errors()
    # Dagster marks an interrupted run as such, but handles SIGINT only.
    signal.signal(signal.SIGTERM, _stop)
    hangup_terminates()
    if not sys.argv[1:]:
        _serve()
        return
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_follow_stdin, args=(lambda _: None,), daemon=True).start()
    job_name, partition, *rest = sys.argv[1:]
    answer = _answer(job_name, partition, json.loads(rest[0]) if rest else {})
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    sys.exit(1 if answer["error"] else 0)


if __name__ == "__main__":
    main()
