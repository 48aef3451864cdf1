"""Ends the Dagster runs whose jobs ended without reporting it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg

from harvest_assets.files.sanitize import presentable
from harvest_assets.orchestration.slurm import jobs
from harvest_assets.orchestration.slurm.cluster import ClusterSilentError, JobState, meaning
from harvest_assets.orchestration.slurm.settings import slurm_is_here
from harvest_assets.orchestration.slurm.waiting import log_reasons

_RECENTLY = timedelta(hours=1)


def reconcile(instance: dg.DagsterInstance) -> list[str]:
    """End the runs whose jobs no longer exist; cancel the jobs of runs that were cancelled.

    Returns:
        Sentences that say what was done, and why jobs wait where that is new.

    Raises:
        ClusterSilentError: SLURM does not answer.
    """
    runs = jobs.unfinished_runs(instance)
    cancelled = _recently_cancelled(instance)
    states = jobs.states_of([*runs, *cancelled])
    done = [_settle(instance, run, states[run.run_id]) for run in runs]
    left = [run for run in cancelled if meaning(states[run.run_id]) is JobState.ACTIVE]
    jobs.cancel_jobs(left)
    done += [f"Job {run.tags[jobs.JOB_TAG]} was cancelled after its run." for run in left]
    pending = [run for run in runs if states[run.run_id] == "PENDING"]
    return [sentence for sentence in done if sentence] + log_reasons(instance, pending)


def _recently_cancelled(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Recently cancelled runs: the UI cannot cancel the job that a waiting run has."""
    filters = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.CANCELED],
        tags=jobs.mine(),
        updated_after=datetime.now(tz=UTC) - _RECENTLY,
    )
    return [run for run in instance.get_runs(filters) if jobs.JOB_TAG in run.tags]


def _settle(instance: dg.DagsterInstance, run: dg.DagsterRun, word: str) -> str | None:
    job = run.tags[jobs.JOB_TAG]
    if meaning(word) is JobState.ACTIVE:
        if run.status == dg.DagsterRunStatus.CANCELING:
            jobs.cancel_jobs([run])
        return None
    # The job may have reported its end after the runs were listed.
    now = instance.get_run_by_id(run.run_id)
    if now is None or now.is_finished:
        return None
    instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    partition = run.tags.get("dagster/partition", run.run_id)
    if meaning(word) is JobState.CANCELLED or now.status == dg.DagsterRunStatus.CANCELING:
        sentence = f"Job {job}, which worked on {partition}, was cancelled."
        instance.report_run_canceled(now, sentence)
    else:
        sentence = (
            f"Job {job}, which worked on {partition}, failed (state {word}); "
            f"its output is in {jobs.folder_of(run)}."
        )
        instance.report_run_failed(now, sentence)
    return sentence


@dg.sensor(
    name="jobs_of_the_cluster",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ends runs whose jobs no longer exist and cancels jobs whose runs were cancelled.",
)
def jobs_of_the_cluster(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """See `reconcile`."""
    try:
        done = reconcile(context.instance)
    except ClusterSilentError as error:
        return dg.SkipReason(presentable(str(error)))
    return dg.SkipReason(" ".join(done) or "All jobs are waiting or running.")


def sensors() -> list[dg.SensorDefinition]:
    """The sensor that watches jobs, on a machine that can submit jobs."""
    return [jobs_of_the_cluster] if slurm_is_here() else []
