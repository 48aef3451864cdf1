"""Harvests on this machine: every stage is executed in processes of its own.

Each process is a Dagster run on the instance that the UI shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.failures import MAX_RETRIES
from harvest_assets.orchestration.instance import make_room_for_shards, shards_at_once
from harvest_assets.runners.staged import StagedRunner, StageRun
from harvest_assets.stages import Stage
from harvest_assets.store.registry import Registration
from harvest_assets.system.gpus import count_gpus
from harvest_assets.system.stopping import interrupts_held

_POLL_SECONDS = 0.2


class LocalRunner(StagedRunner):
    """Executes all stages on this machine.

    Args:
        instance: where runs and materializations are recorded.
    """

    shards_are_here = True

    def __init__(self, instance: dg.DagsterInstance) -> None:
        super().__init__(instance)
        make_room_for_shards(instance)

    def execute(
        self,
        registration: Registration,
        stage_runs: Sequence[StageRun],
        poll: Callable[[], None],
    ) -> None:
        """See `execute_here`."""
        execute_here(registration, stage_runs, poll)


def execute_here(
    registration: Registration, stage_runs: Sequence[StageRun], poll: Callable[[], None]
) -> None:
    """Execute the runs of a stage in processes, as many at once as this machine has room for.

    Raises:
        HarvestError: one failed; the others were stopped.
    """
    at_once = min(len(stage_runs), shards_at_once()) if len(stage_runs) > 1 else 1
    with _processes() as start:
        waiting = list(stage_runs)
        working: list[_Process] = []
        while waiting or working:
            while waiting and len(working) < at_once:
                stage_run = waiting.pop(0)
                of_shard = stage_run.stage is Stage.HARVEST
                environment = _share_of_machine(at_once) if of_shard else {}
                working.append(start(registration, stage_run, environment))
            working = _still_working(working)
            poll()
            time.sleep(_POLL_SECONDS)


def _share_of_machine(at_once: int) -> dict[str, str]:
    """The cores of each shard on a machine without GPUs; else each shard takes a free GPU."""
    if count_gpus():
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // at_once))}


@dataclass
class _Process:
    """A process that executes a Dagster run."""

    popen: subprocess.Popen[str]
    partition: str
    log: Path

    def check(self) -> None:
        """Check that the process, which has ended, succeeded.

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


_Start = Callable[[Registration, StageRun, Mapping[str, str]], _Process]


@contextmanager
def _processes() -> Iterator[_Start]:
    """Yields a function that starts processes; those still running at the end are stopped."""
    started: list[_Process] = []

    def start(
        registration: Registration, stage_run: StageRun, environment: Mapping[str, str]
    ) -> _Process:
        stage, partition = stage_run.stage, stage_run.partition
        shard = partition.partition("|")[2]
        log = registration.layout.log(f"{stage}-{shard}" if shard else stage)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)  # if it were a link, its target would be overwritten
        command = [sys.executable, "-m", "harvest_assets.runners.worker", stage, partition]
        # A process that was started must be recorded: at the end it is given time to save.
        with log.open("w", encoding="utf-8") as stderr, interrupts_held():
            popen = subprocess.Popen(
                [*command, json.dumps(stage_run.run_config)],
                stdin=subprocess.PIPE,  # the worker ends when this process has closed it
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, MAX_RETRIES: "0", **environment},
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
