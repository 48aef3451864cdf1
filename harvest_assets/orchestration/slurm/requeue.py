"""A job that is signalled to stop goes back into its queue, unless somebody cancelled it.

SLURM signals a job that it will be preempted, or that its time is nearly up. A shard then
saves its state; the job has itself requeued and ends its process at once, before Dagster notes a
failure. When the job is started again it goes on with the same Dagster run.
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

# More than a preempted job meets, and an end for one whose time limit is too short to save in.
MAX_RESTARTS = 200
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# What submitit's local mode takes for the wish to be started again.
_LOCAL_REQUEUE = 144

_is_cancelled: Callable[[], bool] | None = None


def this_is_a_job(is_cancelled: Callable[[], bool]) -> None:
    """From now on this process, which is a job, goes back into its queue on a signal.

    Args:
        is_cancelled: whether somebody cancelled the run.
    """
    global _is_cancelled  # noqa: PLW0603
    _is_cancelled = is_cancelled
    for number in _SIGNALS:
        signal.signal(number, _stop)
    hangup_terminates()


@contextmanager
def requeued_when_interrupted() -> Iterator[None]:
    """In a job: if the block is interrupted, the job goes back into its queue."""
    try:
        yield
    except GeneratorExit:
        raise
    except BaseException as error:
        if not isinstance(error, Exception):
            _go_back()
        raise


def _stop(_signum: int, _frame: FrameType | None) -> None:
    _go_back()
    raise KeyboardInterrupt


def _go_back() -> None:
    """Does not return, unless the run was cancelled in Dagster, which then notes that itself.

    A job that is not running any more was cancelled in SLURM, or SLURM itself requeues it: whoever
    looks after the jobs sees which.
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
