"""A lease whose holder was an earlier start of the job, or a job that ended, is taken at once."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from harvest_assets.files.lease import LeaseHeldError, hold_lease, holder_of
from harvest_assets.orchestration import dagster_private
from harvest_assets.orchestration.slurm import cluster, worker
from harvest_assets.store.registry import registration_of

KEY = "goodfire/spd/s-d2ec3bfe"
RUN = SimpleNamespace(tags={"dagster/partition/run": KEY, "dagster/partition/shard": "03"})


@pytest.fixture
def lease(out_dir: Path) -> Path:  # noqa: ARG001
    path = registration_of(KEY).layout.shard_lease("03")
    path.parent.mkdir(parents=True)
    return path


def held_elsewhere(path: Path, job: str | None, restarts: str = "0") -> None:
    """Somebody on another node held the lease a moment ago."""
    holder = {"host": "node7", "pid": 1, "started": "1", "token": "t"}
    path.write_text(json.dumps({**holder, "job": job, "job_restarts": restarts}))


def free(path: Path) -> bool:
    worker.release_stale_leases(RUN)
    try:
        with hold_lease(path, "it"):
            return True
    except LeaseHeldError:
        return False


def test_of_an_earlier_start_of_this_job(lease: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    held_elsewhere(lease, "12", "1")
    assert not free(lease)
    held_elsewhere(lease, "12", "0")
    assert free(lease)
    with hold_lease(lease, "it"):
        assert (holder_of(lease).job, holder_of(lease).job_restarts) == ("12", "1")


@pytest.mark.parametrize(
    ("word", "expected"), [("NODE_FAIL", True), ("COMPLETED", True), ("RUNNING", False)]
)
def test_of_another_job(lease: Path, monkeypatch: pytest.MonkeyPatch, word: str, *, expected: bool):
    monkeypatch.setattr(cluster, "states_of", lambda jobs: dict.fromkeys(jobs, word))
    held_elsewhere(lease, "11")
    assert free(lease) is expected


def test_of_no_job_or_while_slurm_is_silent(lease: Path, monkeypatch: pytest.MonkeyPatch):
    held_elsewhere(lease, None)
    assert not free(lease)

    def silent(_jobs: list[str]) -> dict[str, str]:
        raise cluster.ClusterSilentError("squeue does not answer")

    monkeypatch.setattr(cluster, "states_of", silent)
    held_elsewhere(lease, "11")
    assert not free(lease)


def test_dagsters_private_names_are_there():
    for name in dagster_private.__all__:
        assert getattr(dagster_private, name) is not None
