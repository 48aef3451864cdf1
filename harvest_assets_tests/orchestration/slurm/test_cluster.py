"""The state of jobs, as `squeue` and `sacct` report it; the tests replace both programs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harvest_assets.orchestration.slurm import cluster
from harvest_assets.orchestration.slurm.cluster import JobState, meaning
from harvest_assets_tests.orchestration.slurm.commands import program


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_squeue_is_asked_first_then_sacct(programs: Path):
    program(programs, "squeue", "7|RUNNING\n8|PENDING\n99|FAILED")
    program(programs, "sacct", "5|CANCELLED by 1001\n6|OUT_OF_MEMORY")
    states = cluster.states_of(["4", "5", "6", "7", "8"])
    assert states == {
        "4": "UNKNOWN",
        "5": "CANCELLED",
        "6": "OUT_OF_MEMORY",
        "7": "RUNNING",
        "8": "PENDING",
    }
    squeue, sacct = (programs / "asked").read_text().splitlines()
    assert str(os.getuid()) in squeue
    assert sacct.endswith("-j 4,5,6")


def test_sacct_is_not_needed_while_squeue_knows_all(programs: Path):
    program(programs, "squeue", "7|RUNNING")
    program(programs, "sacct", "", 1)
    assert cluster.states_of(["7"]) == {"7": "RUNNING"}
    assert len((programs / "asked").read_text().splitlines()) == 1


def test_without_accounts_a_job_that_squeue_forgot_is_unknown(programs: Path):
    program(programs, "squeue", "")
    program(programs, "sacct", "Slurm accounting storage is disabled", 1)
    assert cluster.states_of(["7"]) == {"7": "UNKNOWN"}


def test_a_silent_controller_says_nothing_about_jobs(programs: Path):
    program(programs, "squeue", "slurm_load_jobs error: Unable to contact slurm controller", 1)
    with pytest.raises(cluster.ClusterSilentError):
        cluster.states_of(["7"])


def test_no_jobs_ask_nobody(programs: Path):
    program(programs, "squeue", "", 1)
    assert cluster.states_of([]) == {}


@pytest.mark.parametrize(
    ("word", "state"),
    [
        *((word, JobState.ACTIVE) for word in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED")),
        *((word, JobState.ACTIVE) for word in ("SUSPENDED", "CONFIGURING", "REQUEUE_HOLD")),
        ("COMPLETED", JobState.COMPLETED),
        ("CANCELLED", JobState.CANCELLED),
        *((word, JobState.DIED) for word in ("FAILED", "NODE_FAIL", "TIMEOUT", "PREEMPTED")),
        *((word, JobState.DIED) for word in ("OUT_OF_MEMORY", "BOOT_FAIL", "UNKNOWN")),
    ],
)
def test_what_the_words_of_slurm_mean(word: str, state: JobState):
    assert meaning(word) is state


def test_a_process_that_ended_does_not_live(programs: Path):  # noqa: ARG001
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    while cluster.local_states_of([str(pid)])[str(pid)] != "UNKNOWN":
        pass
    os.waitpid(pid, 0)
    me = str(os.getpid())
    assert cluster.local_states_of([me, str(pid)]) == {me: "RUNNING", str(pid): "UNKNOWN"}
