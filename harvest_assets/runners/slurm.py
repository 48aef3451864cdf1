"""Stages of a harvest as jobs, for a command that drives the harvest itself.

The jobs need no process on the machine of the command. If the command dies they go on, and the same
command finds them again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import dagster as dg

from harvest_assets.definitions import defs
from harvest_assets.errors import HarvestError
from harvest_assets.files.sanitize import presentable
from harvest_assets.orchestration.run_failures import failure_in
from harvest_assets.orchestration.slurm import jobs
from harvest_assets.orchestration.slurm.cluster import ClusterSilentError
from harvest_assets.orchestration.slurm.launcher import cancel_run
from harvest_assets.orchestration.slurm.settings import SlurmSettings
from harvest_assets.orchestration.slurm.watch import look_after, unfinished_runs
from harvest_assets.runners.local import Stage, Watcher, harvest_with, work_here
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.registry import Registration
from harvest_assets.system.stopping import interrupts_held

_POLL_SECONDS = 1.0
_SECONDS_BETWEEN_QUESTIONS = 5.0
_MOST_TRIES = 4
# The command tries again by itself: the daemon must not do so, too.
_TAGS = {"dagster/max_retries": "0"}


def harvest_on_cluster(
    registration: Registration,
    instance: dg.DagsterInstance,
    settings: Mapping[str, Any],
    step: int | None,
    watch: Watcher,
) -> HarvestPlan:
    """Harvest one run, its shards as jobs; see `harvest_with`."""
    work = ClusterWork(instance, SlurmSettings.from_environment())
    return harvest_with(work, registration, instance, settings, step, watch)


class ClusterWork:
    """Works on stages as jobs; those that the deployment does not submit are done here.

    Args:
        instance: where the runs are recorded.
        settings: of the cluster.
    """

    def __init__(self, instance: dg.DagsterInstance, settings: SlurmSettings) -> None:
        self._instance = instance
        self._settings = settings
        self._asked = 0.0

    def __call__(
        self, registration: Registration, stages: Sequence[Stage], look: Callable[[], None]
    ) -> None:
        """Work on stages side by side.

        A job that dies is submitted again, three times. When one fails or is cancelled, the others
        that were submitted end first: their turn in the queue is worth something.

        Raises:
            HarvestError: a stage failed, in as many sentences as there are reasons.
        """
        here = [stage for stage in stages if stage.job not in self._settings.submitted_stages]
        if here:
            work_here(registration, here, look)
        tasks = [_Task(stage) for stage in stages if stage not in here]
        working = [task for task in tasks if self._has_a_job(task)]
        waiting = [task for task in tasks if task not in working]
        reasons: list[str] = []
        try:
            while waiting or working:
                while waiting and self._has_room():
                    working.append(waiting.pop(0))
                    with interrupts_held():  # a job that was submitted is known to be
                        self._start(working[-1])
                self._look_after()
                working, again = self._ended(working, reasons)
                waiting = [] if reasons else again + waiting
                look()
                time.sleep(_POLL_SECONDS)
        except BaseException:
            with interrupts_held():  # jobs that nobody waits for are cancelled
                self._cancel(working)
            raise
        if reasons:
            told = " ".join(dict.fromkeys(reasons))
            raise HarvestError(f"{told} The same command goes on with what is left.")

    def _has_room(self) -> bool:
        return len(unfinished_runs(self._instance)) < self._settings.max_jobs

    def _has_a_job(self, task: _Task) -> bool:
        """Does the job of a command that died work on it? Then it is followed."""
        for run in unfinished_runs(self._instance):
            same = run.tags.get("dagster/partition") == task.stage.partition
            if same and jobs.stage_of(run) == task.stage.job:
                task.run_id = run.run_id
                _tell(f"{task.stage.partition} has job {run.tags[jobs.JOB_TAG]} already.")
                return True
        return False

    def _start(self, task: _Task) -> None:
        stage = task.stage
        job = defs.resolve_job_def(stage.job)
        run = jobs.create_run(self._instance, job, stage.partition, stage.run_config, _TAGS)
        task.run_id = run.run_id
        task.tries += 1
        try:
            number = jobs.submit(self._instance, run, self._settings)
        except HarvestError as error:
            self._instance.report_run_failed(run, presentable(str(error)))
            raise
        _tell(f"{stage.partition} waits as job {number}.")

    def _look_after(self) -> None:
        """Ask SLURM now and then what became of the jobs."""
        if time.monotonic() - self._asked < _SECONDS_BETWEEN_QUESTIONS:
            return
        self._asked = time.monotonic()
        try:
            told = look_after(self._instance)
        except ClusterSilentError:
            return  # Whoever asks every other second may go unanswered now and then.
        for sentence in told:
            _tell(sentence)

    def _ended(self, working: list[_Task], reasons: list[str]) -> tuple[list[_Task], list[_Task]]:
        """Those that still work, and those that are to be tried again; failures are told."""
        still: list[_Task] = []
        again: list[_Task] = []
        for task in working:
            run = self._instance.get_run_by_id(task.run_id)
            if run is not None and not run.is_finished:
                still.append(task)
                continue
            entries = self._instance.all_logs(task.run_id)
            events = [entry.dagster_event for entry in entries if entry.dagster_event]
            failed_step = any(event.is_step_failure for event in events)
            success = run is not None and run.is_success
            if run is not None and run.is_failure and not failed_step and task.tries < _MOST_TRIES:
                again.append(task)
                continue
            reason = failure_in(events, success=success)
            if reason is not None:
                reasons.append(reason)
        return still, again

    def _cancel(self, working: Sequence[_Task]) -> None:
        for task in working:
            run = self._instance.get_run_by_id(task.run_id)
            if run is not None and not run.is_finished:
                cancel_run(self._instance, run)


def _tell(line: str) -> None:
    click.echo(line, err=True)


class _Task:
    """A stage and the run that works on it.

    Args:
        stage: what is to be done.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.run_id = ""
        self.tries = 0
