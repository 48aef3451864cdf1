"""Which runs become jobs, and how they are handed to submitit."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg

from harvest_assets.errors import HarvestError
from harvest_assets.files.sanitize import plain_text
from harvest_assets.orchestration.dagster_private import EngineEventData, ReconstructableRepository
from harvest_assets.orchestration.instance import GPU_POOL
from harvest_assets.orchestration.partitions import (
    RUN_DIMENSION,
    SHARD_DIMENSION,
    partition_key,
    run_shards,
    runs,
)
from harvest_assets.orchestration.slurm import cluster
from harvest_assets.orchestration.slurm.nodes import require_fitting_node
from harvest_assets.orchestration.slurm.settings import SlurmSettings, needs_gpu
from harvest_assets.stages import Asset, Stage
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.registry import Registration, registration_of

JOB_TAG = "harvest_assets/job"
CLUSTER_TAG = "harvest_assets/cluster"
# SLURM may neither list nor cancel the jobs of others.
USER_TAG = "harvest_assets/user"

_MAX_SLOTS = 1000
_MAX_TEXT = 500
# What SLURM replaces, or takes for something else, in the names of output files.
_OF_PATTERNS = "%\\"
_UNFINISHED = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_FORWARDED = ("SPD_OUT_DIR", "DAGSTER_HOME")


def stage_of(run: dg.DagsterRun) -> Stage | None:
    """The stage that a run belongs to, however it was started; None if it is of several."""
    if run.job_name in set(Stage):
        return Stage(run.job_name)
    names = {key.path[-1] for key in run.asset_selection or ()}
    names |= {key.asset_key.path[-1] for key in run.asset_check_selection or ()}
    return next((stage for stage in Stage if names and names <= set(stage.assets)), None)


def becomes_a_job(run: dg.DagsterRun, settings: SlurmSettings) -> bool:
    """Whether a run is submitted; else it runs where the daemon or the command does.

    A run of shards always is: only the cluster has GPUs. One of a shard beyond those of the plan
    has nothing to compute, so it never is.
    """
    stage = stage_of(run)
    shards = any(key.path[-1] == Asset.HARVEST_SHARD for key in run.asset_selection or ())
    return (shards or stage in settings.submitted_stages) and not _is_unplanned(run)


def create_run(
    instance: dg.DagsterInstance,
    job: dg.JobDefinition,
    partition: str,
    run_config: Mapping[str, Any],
    tags: Mapping[str, str],
) -> dg.DagsterRun:
    """Create a run of a stage that is waiting to be submitted and already shown in the UI."""
    key = partition_key(partition)
    over = run_shards if "|" in partition else runs
    repository = ReconstructableRepository.for_module("harvest_assets.definitions", "defs")
    run = instance.create_run_for_job(
        job,
        run_config=run_config,
        tags={**over.get_tags_for_partition_key(key), **tags},
        job_code_origin=repository.get_reconstructable_job(job.name).get_python_origin(),
    )
    starting = dg.DagsterEvent(dg.DagsterEventType.RUN_STARTING.value, run.job_name)
    instance.report_dagster_event(starting, run.run_id)
    return run


def submit(instance: dg.DagsterInstance, run: dg.DagsterRun, settings: SlurmSettings) -> str:
    """Submit a run as a job of its own and record the job's files in the run's log.

    Args:
        instance: instance of the run.
        run: a run that has not been started.
        settings: settings of the cluster.

    Returns:
        The job's number.

    Raises:
        HarvestError: the job was not accepted, with SLURM's message; no node can run it; or the
            name of its folder cannot be used in a script.
    """
    # Imported here: the daemon keeps this module in memory all day.
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    from harvest_assets.orchestration.slurm.worker import execute

    _lift_pool(instance)
    owner = _owner(run)
    gpu = needs_gpu(stage_of(run))
    require_fitting_node(settings, gpu=gpu)
    parameters = settings.parameters(
        name=job_name(run, owner), comment=_comment(run, owner), gpu=gpu
    )
    folder = folder_of(run)
    if not str(folder).isprintable() or set(str(folder)) & set(_OF_PATTERNS):
        raise HarvestError(
            f"{str(folder)!r} cannot be used in a job's script; it must not contain % or \\."
        )
    try:
        executor = submitit.AutoExecutor(folder, cluster=settings.cluster)
        executor.update_parameters(**parameters)
        job = executor.submit(execute, run.run_id, _environment(settings))
    except (FailedJobError, FailedSubmissionError, OSError, RuntimeError) as error:
        raise HarvestError(
            f"{job_name(run, owner)} was not accepted by the cluster: {_last_line(error)}"
        ) from error
    tags = {JOB_TAG: job.job_id, CLUSTER_TAG: settings.cluster, USER_TAG: str(os.getuid())}
    instance.add_run_tags(run.run_id, tags)
    instance.report_engine_event(
        f"Waiting as job {job.job_id} of {settings.cluster}.",
        run,
        EngineEventData(
            {
                "job": dg.MetadataValue.text(job.job_id),
                "stdout": dg.MetadataValue.path(str(job.paths.stdout)),
                "stderr": dg.MetadataValue.path(str(job.paths.stderr)),
                "script": dg.MetadataValue.path(str(job.paths.submission_file)),
            }
        ),
    )
    return str(job.job_id)


def job_name(run: dg.DagsterRun, owner: Registration | None) -> str:
    """The name of a job, which shows run and shard in `squeue`."""
    shard = run.tags.get(f"dagster/partition/{SHARD_DIMENSION}")
    parts = ["harvest", owner.out_name if owner else run.run_id, shard or stage_of(run)]
    return _inert("-".join(part for part in parts if part))


def folder_of(run: dg.DagsterRun) -> Path:
    """The folder of scripts and output of a run's job; every node sees it."""
    owner = _owner(run)
    if owner is not None:
        return owner.layout.log("jobs").with_suffix("")
    return Path(os.environ["DAGSTER_HOME"]) / "jobs"


def jobs_of(harvests: Iterable[dg.DagsterRun]) -> dict[str, list[str]]:
    """The numbers of the jobs of runs, by the kind of cluster."""
    found: dict[str, list[str]] = {}
    for run in harvests:
        if JOB_TAG in run.tags:
            found.setdefault(run.tags.get(CLUSTER_TAG, "slurm"), []).append(run.tags[JOB_TAG])
    return found


def states_of(harvests: Collection[dg.DagsterRun]) -> dict[str, str]:
    """SLURM's word for the state of the job of each run, by the run's id.

    Raises:
        ClusterSilentError: SLURM does not answer.
    """
    by_kind = jobs_of(harvests)
    states = cluster.states_of(by_kind.get("slurm", []))
    states |= cluster.local_states_of(by_kind.get("local", []))
    return {run.run_id: states[run.tags[JOB_TAG]] for run in harvests if JOB_TAG in run.tags}


def unfinished_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """The runs that are waiting or running as jobs of this user."""
    filters = dg.RunsFilter(statuses=_UNFINISHED, tags=mine())
    return [run for run in instance.get_runs(filters) if JOB_TAG in run.tags]


def mine() -> dict[str, str]:
    """The tag of the runs that this user has submitted."""
    return {USER_TAG: str(os.getuid())}


def cancel_jobs(harvests: Iterable[dg.DagsterRun]) -> None:
    """Cancel the jobs of runs."""
    by_kind = jobs_of(harvests)
    cluster.cancel(by_kind.get("slurm", []))
    cluster.cancel_local(by_kind.get("local", []))


def _is_unplanned(run: dg.DagsterRun) -> bool:
    """Whether a run is of a shard that the stored plan does not have."""
    shard, owner = run.tags.get(f"dagster/partition/{SHARD_DIMENSION}"), _owner(run)
    if shard is None or owner is None:
        return False
    try:
        return not HarvestPlan.open(owner.layout.root).has_shard(shard)
    except HarvestError:  # without a plan, the run itself reports what is missing
        return False


def _owner(run: dg.DagsterRun) -> Registration | None:
    key = run.tags.get(f"dagster/partition/{RUN_DIMENSION}") or run.tags.get("dagster/partition")
    return registration_of(key) if key else None


def _comment(run: dg.DagsterRun, owner: Registration | None) -> str:
    if owner is None:
        return f"dagster run {run.run_id}"
    partition = run.tags.get("dagster/partition", owner.key)
    where = owner.reference.path or owner.reference.name.url
    return _inert(f"{partition} {where} dagster run {run.run_id}")


def _inert(text: str) -> str:
    """Text without special meaning to a shell or `sbatch`; other characters are percent-encoded."""
    return quote(plain_text(text)[:_MAX_TEXT], safe=" /:|=+,@.")


def _environment(settings: SlurmSettings) -> dict[str, str]:
    """The variables a job needs, since a cluster may not pass on the environment.

    They hold no secrets: they are written to a file.
    """
    ours = {
        name: value
        for name, value in os.environ.items()
        if name in _FORWARDED or name.startswith("HARVEST_")
    }
    return {"OMP_NUM_THREADS": str(settings.cpus), **ours}


def _lift_pool(instance: dg.DagsterInstance) -> None:
    """Lift the limit of the GPU pool, which is for one machine; SLURM limits jobs itself.

    A job that waited for a slot in the pool would hold an idle GPU.
    """
    limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
    if limits.get(GPU_POOL, 0) < _MAX_SLOTS:
        instance.event_log_storage.set_concurrency_slots(GPU_POOL, _MAX_SLOTS)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
