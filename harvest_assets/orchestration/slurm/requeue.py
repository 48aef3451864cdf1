"""A job that is signalled to stop is requeued, unless its run was cancelled.

SLURM signals a job that it will be preempted, or that its time is nearly up. A shard then
saves its state; the job has itself requeued and ends its process at once, before Dagster notes a
failure. When the job is started again it continues the same Dagster run.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from harvest_assets.orchestration.slurm import cluster
from harvest_assets.system.stopping import hangup_terminates

# More than a preempted job needs; ends a job whose time limit is too short to save in.
MAX_RESTARTS = 200
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# The exit status with which submitit's local mode restarts a process.
_LOCAL_REQUEUE = 144

_is_cancelled: Callable[[], bool] | None = None


def this_is_a_job(is_cancelled: Callable[[], bool]) -> None:
    """Make this process, which is a job, requeue itself on a signal.

    Args:
        is_cancelled: whether the run was cancelled.
    """
    global _is_cancelled  # noqa: PLW0603
    _is_cancelled = is_cancelled
    for number in _SIGNALS:
        signal.signal(number, _stop)
    hangup_terminates()


def is_a_job() -> bool:
    """Whether this process is a job."""
    return _is_cancelled is not None


@contextmanager
def requeued_when_interrupted() -> Iterator[None]:
    """In a job: requeue the job if the block is interrupted."""
    try:
        yield
    except GeneratorExit:
        raise
    except BaseException as error:
        if not isinstance(error, Exception):
            _requeue_and_exit()
        raise


def _stop(_signum: int, _frame: FrameType | None) -> None:
    _requeue_and_exit()
    raise KeyboardInterrupt


def _requeue_and_exit() -> None:
    """Requeue the job; returns only if the run was cancelled in Dagster, which records that.

    A job that is no longer running was cancelled in SLURM, or SLURM itself requeues it; the sensor
    that watches the jobs finds out which.
    """
    if _is_cancelled is None or _is_cancelled():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        os._exit(_LOCAL_REQUEUE)
    job = os.environ["SLURM_JOB_ID"]
    if restarts() < MAX_RESTARTS and cluster.is_running(job):
        cluster.requeue(job)
    os._exit(1)


def restarts() -> int:
    """How often this job has been started before."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)
