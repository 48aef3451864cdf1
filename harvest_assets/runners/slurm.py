"""Harvests whose stages are executed as jobs of a SLURM cluster.

The jobs need no process on the machine of the command. If the command is killed they continue, and
the same command finds them again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click
import dagster as dg

from harvest_assets.definitions import defs
from harvest_assets.errors import HarvestError
from harvest_assets.files.sanitize import presentable
from harvest_assets.orchestration.run_failures import failure_in
from harvest_assets.orchestration.slurm import jobs
from harvest_assets.orchestration.slurm.cluster import ClusterSilentError
from harvest_assets.orchestration.slurm.jobs import unfinished_runs
from harvest_assets.orchestration.slurm.launcher import cancel_run
from harvest_assets.orchestration.slurm.settings import SlurmSettings
from harvest_assets.orchestration.slurm.watch import reconcile
from harvest_assets.runners.local import execute_here
from harvest_assets.runners.staged import StagedRunner, StageRun
from harvest_assets.store.registry import Registration
from harvest_assets.system.stopping import interrupts_held

_POLL_SECONDS = 1.0
_SECONDS_BETWEEN_QUERIES = 5.0
_MAX_TRIES = 4
# The command tries again by itself, so the daemon must not.
_TAGS = {"dagster/max_retries": "0"}


@dataclass
class _Job:
    """A Dagster run to be executed as a job, and the run that is its current attempt."""

    stage_run: StageRun
    run_id: str = ""
    tries: int = 0


class SlurmRunner(StagedRunner):
    """Executes stages as jobs; those that the deployment does not submit are executed here.

    Args:
        instance: where runs and materializations are recorded.
        settings: of the cluster.
    """

    def __init__(self, instance: dg.DagsterInstance, settings: SlurmSettings) -> None:
        super().__init__(instance)
        self._settings = settings
        self._queried = 0.0

    def execute(
        self,
        registration: Registration,
        stage_runs: Sequence[StageRun],
        poll: Callable[[], None],
    ) -> None:
        """Execute the runs of a stage side by side.

        A job that dies is submitted again, three times. When one fails or is cancelled, those that
        were submitted may finish: they have waited in the queue for it.

        Raises:
            HarvestError: one failed; the message has every distinct reason.
        """
        here = [it for it in stage_runs if it.stage not in self._settings.submitted_stages]
        if here:
            execute_here(registration, here, poll)
        submitted = [_Job(stage_run) for stage_run in stage_runs if stage_run not in here]
        working = [job for job in submitted if self._has_a_job(job)]
        waiting = [job for job in submitted if job not in working]
        reasons: list[str] = []
        try:
            while waiting or working:
                while waiting and self._has_room():
                    working.append(waiting.pop(0))
                    with interrupts_held():  # a job that was submitted must be recorded
                        self._submit(working[-1])
                self._reconcile()
                working, again = self._sort(working, reasons)
                waiting = [] if reasons else again + waiting
                poll()
                time.sleep(_POLL_SECONDS)
        except BaseException:
            with interrupts_held():  # nobody would wait for these jobs
                self._cancel(working)
            raise
        if reasons:
            distinct = " ".join(dict.fromkeys(reasons))
            raise HarvestError(f"{distinct} Run the same command again to continue.")

    def _has_room(self) -> bool:
        return len(unfinished_runs(self._instance)) < self._settings.max_jobs

    def _has_a_job(self, job: _Job) -> bool:
        """Whether the job of a killed command is still working on it; if so, follow that job."""
        for run in unfinished_runs(self._instance):
            same = run.tags.get("dagster/partition") == job.stage_run.partition
            if same and jobs.stage_of(run) is job.stage_run.stage:
                job.run_id = run.run_id
                _report(f"{job.stage_run.partition} has job {run.tags[jobs.JOB_TAG]} already.")
                return True
        return False

    def _submit(self, job: _Job) -> None:
        stage_run = job.stage_run
        definition = defs.resolve_job_def(stage_run.stage.value)
        run = jobs.create_run(
            self._instance, definition, stage_run.partition, stage_run.run_config, _TAGS
        )
        job.run_id = run.run_id
        job.tries += 1
        try:
            number = jobs.submit(self._instance, run, self._settings)
        except HarvestError as error:
            self._instance.report_run_failed(run, presentable(str(error)))
            raise
        _report(f"{stage_run.partition} waits as job {number}.")

    def _reconcile(self) -> None:
        """Query SLURM about the jobs, every few seconds."""
        if time.monotonic() - self._queried < _SECONDS_BETWEEN_QUERIES:
            return
        self._queried = time.monotonic()
        try:
            done = reconcile(self._instance)
        except ClusterSilentError:
            return  # a single query may fail
        for sentence in done:
            _report(sentence)

    def _sort(self, working: list[_Job], reasons: list[str]) -> tuple[list[_Job], list[_Job]]:
        """The jobs still running and those to retry; records why others failed."""
        still: list[_Job] = []
        again: list[_Job] = []
        for job in working:
            run = self._instance.get_run_by_id(job.run_id)
            if run is not None and not run.is_finished:
                still.append(job)
                continue
            entries = self._instance.all_logs(job.run_id)
            events = [entry.dagster_event for entry in entries if entry.dagster_event]
            failed_step = any(event.is_step_failure for event in events)
            success = run is not None and run.is_success
            if run is not None and run.is_failure and not failed_step and job.tries < _MAX_TRIES:
                again.append(job)
                continue
            reason = failure_in(events, success=success)
            if reason is not None:
                reasons.append(reason)
        return still, again

    def _cancel(self, working: Sequence[_Job]) -> None:
        for job in working:
            run = self._instance.get_run_by_id(job.run_id)
            if run is not None and not run.is_finished:
                cancel_run(self._instance, run)


def _report(line: str) -> None:
    click.echo(line, err=True)
