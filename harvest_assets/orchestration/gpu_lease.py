"""One shard at a time on a GPU, even if several commands and a daemon share a machine.

A GPU is known by its UUID, whatever number a process sees it under. Who uses one holds a lock on
a file of this machine; the lock goes with its process, however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harvest_assets.system.gpus import require_device

if TYPE_CHECKING:
    import torch

# A folder of this machine's own: `$TMPDIR` may differ between users and between jobs.
_LOCKS = Path("/tmp")  # noqa: S108
_POLL_SECONDS = 1.0
_BUSY = (errno.EAGAIN, errno.EACCES)


def visible_gpus() -> dict[int, str]:
    """UUIDs of the GPUs that this process may use, by their numbers.

    Raises:
        HarvestError: the GPU that was asked for is not there.
    """
    import torch

    return {gpu: str(torch.cuda.get_device_properties(gpu).uuid) for gpu in require_device()}


@contextmanager
def lease_device(log: Callable[[str], None]) -> Iterator[torch.device]:
    """A GPU that no other process uses while the block runs; the CPU if there is no GPU.

    Waits while all visible GPUs are in use.

    Args:
        log: takes a line of text.
    """
    import torch

    gpus = visible_gpus()
    if not gpus:
        yield torch.device("cpu")
        return
    with lease_one(list(gpus.values()), log) as index:
        number = list(gpus)[index]
        torch.cuda.set_device(number)
        yield torch.device("cuda", number)


@contextmanager
def lease_one(
    gpus: Sequence[str], log: Callable[[str], None], locks: Path | None = None
) -> Iterator[int]:
    """The index of a GPU that no other process holds while the block runs; waits for one.

    Args:
        gpus: names that all processes of the machine use for them.
        log: takes a line of text.
        locks: folder of the lock files.
    """
    waiting = False
    while True:
        for number, gpu in enumerate(gpus):
            descriptor = _try_lock((locks or _LOCKS) / f"harvest_assets-gpu-{gpu}.lock")
            if descriptor is None:
                continue
            try:
                log(f"Using GPU {number} of {len(gpus)} ({gpu}).")
                yield number
            finally:
                os.close(descriptor)
            return
        if not waiting:
            waiting = True
            log(f"Waiting for a GPU: all {len(gpus)} visible ones are in use.")
        time.sleep(_POLL_SECONDS)


def _try_lock(path: Path) -> int | None:
    """An open descriptor that holds the lock, or None if another process does."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in _BUSY:
            return None
        raise
    return descriptor


def _open(path: Path) -> int:
    """Opened for reading, which is enough for a lock: the file may be another user's."""
    with suppress(FileExistsError):
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644)
    return os.open(path, os.O_RDONLY)
