"""Harvests on this machine: shards side by side in processes of their own, the rest in one.

Each stage is a Dagster run on the instance that the UI shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import dagster as dg

from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.instance import make_room_for_shards
from harvest_assets.runners.protocol import Watch
from harvest_assets.runners.staged import StagedRunner, StageRun
from harvest_assets.runners.warm import (
    WarmWorker,
    check_answer,
    new_log,
    start_worker,
    warm_worker,
)
from harvest_assets.stages import Stage
from harvest_assets.store.registry import Registration
from harvest_assets.system.gpus import count_gpus, shards_at_once
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
        self._warm = WarmWorker()
        make_room_for_shards(instance)

    def run(
        self,
        registrations: Sequence[Registration],
        settings: Mapping[str, Any],
        step: int | None,
        watch: Watch,
    ) -> Mapping[str, HarvestError]:
        """See `Runner.run`."""
        with warm_worker() as self._warm:
            return super().run(registrations, settings, step, watch)

    def execute(
        self,
        registration: Registration,
        stage_runs: Sequence[StageRun],
        poll: Callable[[], None],
    ) -> None:
        """See `StagedRunner.execute`; a single run is executed by the warm worker."""
        if len(stage_runs) == 1:
            self._warm.execute(registration, stage_runs[0], poll)
        else:
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
    stdout: IO[str]

    def check(self) -> None:
        """Check that the process, which has ended, succeeded.

        Raises:
            HarvestError: it did not.
        """
        self.stdout.seek(0)
        out = self.stdout.read().strip().splitlines()
        check_answer(out[-1] if out else "", self.popen, self.partition, self.log)


_Start = Callable[[Registration, StageRun, Mapping[str, str]], _Process]


@contextmanager
def _processes() -> Iterator[_Start]:
    """Yields a function that starts processes; those still running at the end are stopped."""
    started: list[_Process] = []

    def start(
        registration: Registration, stage_run: StageRun, environment: Mapping[str, str]
    ) -> _Process:
        arguments = [stage_run.stage, stage_run.partition, json.dumps(stage_run.run_config)]
        log = new_log(registration, stage_run)
        # A pipe that nobody reads would block the process once it is full.
        stdout = TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        # A process that was started must be recorded: at the end it is given time to save.
        with interrupts_held():
            popen = start_worker(arguments, log, environment, stdout)
            process = _Process(popen, stage_run.partition, log, stdout)
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
                process.stdout.close()


def _still_working(processes: Sequence[_Process]) -> list[_Process]:
    working = []
    for process in processes:
        if process.popen.poll() is None:
            working.append(process)
        else:
            process.check()
    return working
