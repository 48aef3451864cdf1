"""The entry point of a job: executes one Dagster run, or continues it."""

from __future__ import annotations

import os
import socket
from typing import Any

from harvest_assets.files.lease import Holder, holder_of, remove_lease
from harvest_assets.orchestration.failures import presentable_errors
from harvest_assets.orchestration.slurm import cluster
from harvest_assets.orchestration.slurm.requeue import restarts, this_is_a_job


def execute(run_id: str, environment: dict[str, str]) -> None:
    """Execute a waiting run, or continue one that an earlier start of this job began.

    Called by submitit in the job's process; the run itself records how it ended.

    Args:
        run_id: id of the Dagster run.
        environment: variables to set in the job.
    """
    os.environ.update(environment)
    import dagster as dg

    from harvest_assets.orchestration.dagster_private import (
        core_execute_run,
        recon_job_from_origin,
    )

    with presentable_errors(), dg.DagsterInstance.get() as instance:
        this_is_a_job(lambda: _is_cancelled(instance, run_id))
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            print(f"Run {run_id} has ended or was deleted; there is nothing to do.")
            return
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run)
            return
        release_stale_leases(run)
        started_before = run.status == dg.DagsterRunStatus.STARTED
        instance.report_engine_event(
            f"Running on {socket.gethostname()}" + (", restarted." if started_before else "."),
            run,
        )
        assert run.job_code_origin is not None  # noqa: S101
        for _ in core_execute_run(
            recon_job_from_origin(run.job_code_origin),
            run,
            instance,
            inject_env_vars=False,
            resume_from_failure=started_before,
        ):
            pass


def _is_cancelled(instance: Any, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is None or run.is_finished or run.status.value == "CANCELING"


def release_stale_leases(run: Any) -> None:
    """Remove the leases on this run's work that are held by jobs known to have ended.

    Otherwise a job that was moved to another node would wait two minutes for its own lease.
    """
    from harvest_assets.orchestration.partitions import SHARD_DIMENSION
    from harvest_assets.store.registry import registration_of

    key = run.tags.get("dagster/partition/run") or run.tags.get("dagster/partition")
    if key is None:
        return
    layout = registration_of(key).layout
    shard = run.tags.get(f"dagster/partition/{SHARD_DIMENSION}")
    path = layout.merge_lease if shard is None else layout.shard_lease(shard)
    holder = holder_of(path)
    if holder and _is_stale(holder):
        remove_lease(path, holder)


def _is_stale(holder: Holder) -> bool:
    job = holder.job
    if job is None:
        return False
    if job == os.environ.get("SLURM_JOB_ID"):
        return holder.job_restarts != str(restarts())
    try:
        return cluster.meaning(cluster.states_of([job])[job]) is not cluster.JobState.ACTIVE
    except cluster.ClusterSilentError:
        return False
