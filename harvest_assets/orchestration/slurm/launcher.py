"""Dagster's run launcher and run coordinator for a cluster, named in `dagster.yaml`."""

from __future__ import annotations

import dagster as dg

from harvest_assets.orchestration.dagster_private import LaunchRunContext, RunQueueConfig
from harvest_assets.orchestration.failures import presentable_errors
from harvest_assets.orchestration.partitions import SHARD_DIMENSION
from harvest_assets.orchestration.slurm import jobs
from harvest_assets.orchestration.slurm.cluster import JobState, meaning
from harvest_assets.orchestration.slurm.settings import SlurmSettings


class SlurmRunLauncher(dg.DefaultRunLauncher):
    """Submits runs that need a GPU as jobs; the others run beside the daemon."""

    @presentable_errors()
    def launch_run(self, context: LaunchRunContext) -> None:
        """Submit a run, or start it here."""
        settings = SlurmSettings.from_environment()
        if jobs.becomes_a_job(context.dagster_run, settings):
            jobs.submit(self._instance, context.dagster_run, settings)
        else:
            super().launch_run(context)

    def terminate(self, run_id: str) -> bool:
        """Cancel a run's job; a running shard saves its state first."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if jobs.JOB_TAG not in run.tags:
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        cancel_run(self._instance, run)
        return True


def cancel_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Cancel a run and its job; a run that was only waiting ends at once."""
    waits = run.status == dg.DagsterRunStatus.STARTING
    if run.status != dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceling(run)
    jobs.cancel_jobs([run])
    if waits and meaning(jobs.states_of([run])[run.run_id]) is not JobState.ACTIVE:
        instance.report_run_canceled(run)


class SlurmRunCoordinator(dg.QueuedRunCoordinator):
    """Submits at most `HARVEST_SLURM_MAX_JOBS` shards to the cluster at once.

    The others wait in Dagster's queue. `tag_concurrency_limits` in `dagster.yaml` takes precedence.
    """

    def get_run_queue_config(self) -> RunQueueConfig:
        """Dagster's own limits, and the one for shards."""
        config = super().get_run_queue_config()
        limit = {
            "key": f"dagster/partition/{SHARD_DIMENSION}",
            "limit": SlurmSettings.from_environment().max_jobs,
        }
        return config._replace(tag_concurrency_limits=[*config.tag_concurrency_limits, limit])
