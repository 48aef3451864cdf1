"""`harvest-assets ui` with whoever restarts it when it has ended, and what kills its processes."""

from __future__ import annotations

import os
import random
import signal
from contextlib import ExitStack, suppress
from pathlib import Path

import dagster as dg
import psutil

from harvest_assets_tests.dagster_dev import dagster_dev, graphql, worker_pid
from harvest_assets_tests.orchestration.soak.memory import roles

REPOSITORY = (
    '{repositoryName: "__repository__", repositoryLocationName: "harvest_assets.definitions"'
)
_AT_WORK = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
_UNFINISHED = [*_AT_WORK, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.CANCELING]


class Deployment:
    """Starts, kills and restarts the daemon and the UI.

    Args:
        environment: of the processes.
        folder: where they run; `ui.log` in it has what they print.
        seed: decides which worker is killed.

    Attributes:
        address: of the UI.
        struck: Dagster runs whose process was killed, or was at work when Dagster was.
        n_killed: how many workers were killed alone.
        n_starts: how often Dagster was started.
    """

    def __init__(self, environment: dict[str, str], folder: Path, seed: int) -> None:
        self.address = ""
        self.struck: set[str] = set()
        self.n_killed = self.n_starts = 0
        self._environment, self._folder = environment, folder
        self._dice = random.Random(seed)
        self._stack = ExitStack()

    def start(self) -> None:
        """Start it with one shard a harvest, each second time with two."""
        shards = {"HARVEST_N_SHARDS": str(1 + self.n_starts % 2)}
        self.address = self._stack.enter_context(
            dagster_dev({**self._environment, **shards}, self._folder)
        )
        self.n_starts += 1

    def stop(self) -> None:
        self._stack.close()

    @property
    def root(self) -> psutil.Process | None:
        """The process of the command; None while there is none."""
        for process in psutil.Process().children():
            with suppress(psutil.Error):
                if "ui" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    return process
        return None

    def kill_daemon(self) -> None:
        """Kill the daemon; the command then ends by itself, and is started again."""
        self._note_those_at_work()
        daemon = roles(self.root).get("daemon")
        if daemon is not None:
            daemon.kill()
        if self.root is not None:
            self.root.wait(timeout=120)
        self._restart()

    def kill_tree(self) -> None:
        """Kill everything at once, as a machine does that loses power."""
        self._note_those_at_work()
        if self.root is not None:
            os.killpg(self.root.pid, signal.SIGKILL)
        self._restart()

    def terminate(self) -> None:
        """End the command as a service manager does."""
        self._note_those_at_work()
        self._restart()

    def _restart(self) -> None:
        self.stop()
        self._note_those_at_work()
        self.start()

    def _note_those_at_work(self) -> None:
        with dg.DagsterInstance.get() as instance:
            runs = instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))
            self.struck |= {run.run_id for run in runs}

    def kill_worker(self) -> None:
        """Kill the process of a Dagster run that is at work, if there is one."""
        with dg.DagsterInstance.get() as instance:
            runs = instance.get_runs(dg.RunsFilter(statuses=_AT_WORK))
            self._dice.shuffle(runs)
            for run in runs:
                pid = worker_pid(instance, run.run_id)
                if pid is not None:
                    self.struck.add(run.run_id)
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        self.n_killed += 1
                        return

    def kill_code_server(self) -> None:
        """Kill the process that has the code and its workers; the command then ends by itself."""
        self._note_those_at_work()
        server = roles(self.root).get("code server's child")
        if server is not None:
            for process in [server, *server.children(recursive=True)]:
                with suppress(psutil.Error):
                    process.kill()
            if self.root is not None:
                self.root.wait(timeout=120)
        self._restart()

    def automation(self, *, on: bool) -> None:
        """Switch the automation on or off; the schedule works while it is off."""
        sensor = f'{REPOSITORY}, sensorName: "harvest_automation"}}'
        if on:
            self._ask(f"mutation {{ startSensor(sensorSelector: {sensor}) {{ __typename }} }}")
            return
        state = "... on Sensor { sensorState { id } }"
        sensor_id = self._ask(f"{{ sensorOrError(sensorSelector: {sensor}) {{ {state} }} }}")[
            "sensorOrError"
        ]["sensorState"]["id"]
        self._ask(f'mutation {{ stopSensor(id: "{sensor_id}") {{ __typename }} }}')

    def start_schedule(self) -> None:
        """Switch the schedule on."""
        schedule = f'{REPOSITORY}, scheduleName: "backfill_new_runs"}}'
        self._ask(f"mutation {{ startSchedule(scheduleSelector: {schedule}) {{ __typename }} }}")

    def _ask(self, query: str) -> dict:
        return graphql(self.address, query)
