"""Worker processes, and the one that stays between the stages of a harvest.

A worker imports Dagster and PyTorch for seconds; the warm one does so once.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.failures import MAX_RETRIES
from harvest_assets.runners.staged import StageRun
from harvest_assets.store.registry import Registration
from harvest_assets.system.stopping import interrupts_held

_POLL_SECONDS = 0.2
_PIPE_BYTES = 1 << 16


class WarmWorker:
    """A process that executes one stage after another; it is started by the first."""

    def __init__(self) -> None:
        self._popen: subprocess.Popen[str] | None = None

    def execute(
        self, registration: Registration, stage_run: StageRun, poll: Callable[[], None]
    ) -> None:
        """Execute a stage.

        Args:
            registration: the run that is harvested.
            stage_run: the stage and its partition.
            poll: called now and then.

        Raises:
            HarvestError: it failed, or the process was killed; the next stage gets a new one.
        """
        log = new_log(registration, stage_run)
        with interrupts_held():  # a process that was started must be stopped at the end
            if self._popen is None or self._popen.poll() is not None:
                self._popen = start_worker((), log, {})
        worker = self._popen
        assert worker.stdin  # noqa: S101
        request = {
            "stage": stage_run.stage,
            "partition": stage_run.partition,
            "run_config": stage_run.run_config,
            "log": str(log),
        }
        with suppress(BrokenPipeError):  # it was killed, which shows below
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
        check_answer(_next_line(worker, poll), worker, stage_run.partition, log)

    def stop(self) -> None:
        """Close its stdin, which ends the process; what it is working on is saved."""
        with interrupts_held():
            if self._popen is not None and self._popen.stdin and self._popen.stdout:
                with suppress(OSError):  # it was killed before it read everything
                    self._popen.stdin.close()
                self._popen.stdout.close()  # an answer that fills the pipe would block it
                self._popen.wait()


def _next_line(worker: subprocess.Popen[str], poll: Callable[[], None]) -> str:
    """The next line of a worker's stdout; incomplete if the worker ends before.

    The pipe of a killed worker does not end while a child of the worker has it open.
    """
    assert worker.stdout  # noqa: S101
    line = b""
    while not line.endswith(b"\n"):
        ended = worker.poll() is not None
        if select.select([worker.stdout], [], [], 0 if ended else _POLL_SECONDS)[0]:
            part = os.read(worker.stdout.fileno(), _PIPE_BYTES)
            if not part:
                worker.wait()
                break
            line += part
        elif ended:
            break
        else:
            poll()
    return line.decode(errors="replace")


@contextmanager
def warm_worker() -> Iterator[WarmWorker]:
    """Yields a worker that is stopped when the block ends."""
    worker = WarmWorker()
    try:
        yield worker
    finally:
        worker.stop()


def new_log(registration: Registration, stage_run: StageRun) -> Path:
    """The file for what the process of a stage prints, empty."""
    shard = stage_run.partition.partition("|")[2]
    stage = stage_run.stage
    log = registration.layout.log(f"{stage}-{shard}" if shard else stage)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)  # if it were a link, its target would be overwritten
    log.touch()
    return log


def start_worker(
    arguments: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    stdout: IO[str] | int = subprocess.PIPE,
) -> subprocess.Popen[str]:
    """Start a process that executes stages.

    Args:
        arguments: of `worker.py`.
        log: file for its stderr.
        environment: variables in addition to those of this process.
        stdout: a file for its answer, or a pipe, which must be read while the process runs.
    """
    with log.open("a", encoding="utf-8") as stderr:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "harvest_assets.runners.worker", *arguments],
            stdin=subprocess.PIPE,  # the worker ends when this process has closed it
            stdout=stdout,
            stderr=stderr,
            text=True,
            env={**os.environ, MAX_RETRIES: "0", **environment},
        )


def check_answer(answer: str, popen: subprocess.Popen[str], partition: str, log: Path) -> None:
    """Check the answer of a worker.

    Args:
        answer: a line of its stdout, empty if it gave none.
        popen: its process.
        partition: that it worked on.
        log: its log.

    Raises:
        HarvestError: the stage failed, or the worker ended before it answered.
    """
    try:
        content = json.loads(answer)
        error, trace = content["error"], content["traceback"]
    except (ValueError, KeyError, TypeError):
        raise HarvestError(
            f"The process that worked on {partition} ended with status {popen.returncode}; its "
            f"log is {log}."
        ) from None
    if error:
        failure = HarvestError(str(error))
        if trace:  # `--debug` prints notes
            failure.add_note(f"In the stage's process:\n{trace}")
        raise failure
