"""The states of jobs, from `squeue`, then `sacct`; and how jobs are cancelled."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Collection, Iterable
from contextlib import suppress
from enum import Enum

from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import process_is_alive

_SECONDS = 60
# What a job ends as; the other words of SLURM mean that it waits, works or is being ended.
_CANCELLED = ("CANCELLED", "REVOKED")
_DIED = (
    "BOOT_FAIL",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
)
_COMPLETED = "COMPLETED"
UNKNOWN = "UNKNOWN"


class JobState(Enum):
    """The state of a job, as far as it matters here."""

    ACTIVE = "waits or works"
    COMPLETED = "ended by itself"
    CANCELLED = "was cancelled"
    DIED = "died"


class ClusterSilentError(HarvestError):
    """SLURM does not answer; nothing is known about any job."""


def meaning(word: str) -> JobState:
    """Translate SLURM's word for a state, or `UNKNOWN` for a job it has forgotten."""
    if word == _COMPLETED:
        return JobState.COMPLETED
    if word in _CANCELLED:
        return JobState.CANCELLED
    return JobState.DIED if word in (*_DIED, UNKNOWN) else JobState.ACTIVE


def states_of(jobs: Collection[str]) -> dict[str, str]:
    """SLURM's word for the state of each job; `UNKNOWN` for those that it has forgotten.

    `squeue` answers at once and knows jobs for some minutes after their end; `sacct`, on clusters
    with accounting, knows them indefinitely.

    Raises:
        ClusterSilentError: `squeue` does not answer.
    """
    if not jobs:
        return {}
    listed = _run(["squeue", "--noheader", "--states=all", "--user", _user(), "-o", "%i|%T"])
    if listed is None:
        raise ClusterSilentError(
            "squeue does not answer; nothing is known about the jobs of the cluster."
        )
    found = _pairs(listed, jobs)
    forgotten = sorted(set(jobs) - set(found))
    if forgotten:
        accounts = _run(["sacct", "-XnP", "-o", "JobID,State", "-j", ",".join(forgotten)])
        found |= _pairs(accounts or "", forgotten)
    return {job: found.get(job, UNKNOWN) for job in jobs}


def pending_reasons(jobs: Collection[str]) -> dict[str, str]:
    """SLURM's reason why each job waits, such as `Resources`; only of those that do."""
    listed = _run(["squeue", "--noheader", "--states=PENDING", "--user", _user(), "-o", "%i|%r"])
    reasons = (line.strip().partition("|") for line in (listed or "").splitlines())
    return {job: reason for job, _, reason in reasons if job in jobs}


def nodes(partition: str) -> list[tuple[int, str]]:
    """Cores and GRES (`gpu:a100:4`) of each node of partitions.

    Args:
        partition: names separated by commas; empty: that of the cluster, if it has only one. With
            several, a plugin may choose another than the default.

    Returns:
        Nothing if that is not known, or SLURM does not answer.
    """
    listed = _run(["sinfo", "--noheader", "--Node", "-o", "%P|%c|%G"]) or ""
    found: dict[str, list[tuple[int, str]]] = {}
    for line in listed.splitlines():
        match line.strip().split("|"):
            case [name, cores, gres] if cores.isdecimal():
                found.setdefault(name.removesuffix("*"), []).append((int(cores), gres))
    names = partition.split(",") if partition else found
    if not partition and len(found) > 1:
        return []
    return [node for name in names for node in found.get(name, [])]


def is_running(job: str) -> bool:
    """Whether SLURM counts a job as running, not as ending."""
    return (_run(["squeue", "--noheader", "--jobs", job, "-o", "%T"]) or "").strip() == "RUNNING"


def requeue(job: str) -> bool:
    """Put a running job back into the queue; False if SLURM refuses."""
    return _run(["scontrol", "requeue", job]) is not None


def cancel(jobs: Iterable[str]) -> None:
    """Cancel jobs; those that have ended are ignored."""
    ids = sorted(jobs)
    if ids:
        _run(["scancel", *ids])


def local_states_of(jobs: Collection[str]) -> dict[str, str]:
    """The same as `states_of` for jobs that are processes on this machine."""
    return {job: "RUNNING" if process_is_alive(int(job)) else UNKNOWN for job in jobs}


def cancel_local(jobs: Iterable[str]) -> None:
    """The same as `cancel` for jobs that are processes on this machine."""
    for job in jobs:
        with suppress(ProcessLookupError):
            os.kill(int(job), signal.SIGTERM)


def _user() -> str:
    return str(os.getuid())


def _pairs(text: str, jobs: Collection[str]) -> dict[str, str]:
    """`12|CANCELLED by 0` means that job 12 is CANCELLED."""
    found = {}
    for line in text.splitlines():
        job, _, words = line.strip().partition("|")
        if job in jobs and words:
            found[job] = words.split()[0]
    return found


def _run(command: list[str]) -> str | None:
    """The output of a SLURM command; None if it fails or is not installed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
