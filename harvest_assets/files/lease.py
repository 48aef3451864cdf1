"""One owner at a time for a shard, a merge or a whole harvest, also where files cannot be locked.

The owner's file is created exclusively and its time is renewed while the owner lives. A lease is
stale when its process is gone from this machine, or when its time has not been renewed for two
minutes; times are compared by the clock of the file system, never by those of two machines.

The library `flufl.lock` is close, but it needs clocks that agree (it writes the time of expiry and
compares it with the reader's clock), waits for that time even when the owner on the same machine is
dead, and renews nothing while the owner works. It also needs hard links, and cannot say which SLURM
job owns a lock, or that a process number has been given to another process.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import (
    NO_LINKS,
    host_name,
    process_is_alive,
    sweep,
    temporary_beside,
)
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.records import Older, Record

STALE_SECONDS = 120.0
_HEARTBEAT_SECONDS = 10.0
# The leases of this process and their tokens.
_held: dict[Path, str] = {}


@dataclass(frozen=True)
class Holder:
    """The owner of a lease.

    Args:
        host: machine.
        pid: process there.
        started: when that process was started; its number may be another's later.
        job: SLURM job, if the process belongs to one.
        job_restarts: how often SLURM has restarted that job.
        token: names this taking of the lease.
    """

    host: str
    pid: Annotated[int, Field(gt=0)]
    started: str = ""
    job: str | None = None
    job_restarts: str = "0"
    token: str = ""

    @classmethod
    def me(cls, token: str) -> Holder:
        """This process."""
        return cls(
            host_name(),
            os.getpid(),
            process_started(os.getpid()),
            os.environ.get("SLURM_JOB_ID"),
            os.environ.get("SLURM_RESTART_COUNT", "0"),
            token,
        )


_RECORD = Record(Holder, "a lease", max_bytes=1 << 16, older=Older(), ignore_unknown=True)


class LeaseHeldError(HarvestError):
    """Another process works on it; the message says which."""


def check_held(path: Path) -> None:
    """Check that this process still has a lease; one that was suspended too long has lost it.

    Raises:
        HarvestError: it has not; nothing must be published.
    """
    holder = holder_of(path)
    if holder is None or holder.token != _held.get(path):
        raise HarvestError(f"{path} was taken over while this process was suspended.")


def is_held(path: Path) -> bool:
    """Whether a living process has this lease."""
    holder = holder_of(path)
    return holder is not None and not _is_stale(path, holder)


@contextmanager
def hold_lease(path: Path, what: str) -> Iterator[None]:
    """Hold a lease while the block runs.

    Args:
        path: of the lease's file.
        what: the work that it protects, for the message.

    Raises:
        LeaseHeldError: another living process has it.
        HarvestError: a folder of the harvest is a link.
    """
    HarvestLayout(path.parent.parent).check_links()
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    token = temporary_beside(path).name
    mine = Holder.me(token)
    _take(path, mine, what)
    stop = threading.Event()
    thread = threading.Thread(target=_renew, args=(path, stop), daemon=True)
    thread.start()
    _held[path] = token
    try:
        yield
    finally:
        del _held[path]
        stop.set()
        thread.join()
        if holder_of(path) == mine:
            path.unlink(missing_ok=True)


def _take(path: Path, mine: Holder, what: str) -> None:
    for _ in range(2):
        if _create(path, mine):
            return
        holder = holder_of(path)
        if not _is_stale(path, holder):
            break
        remove_lease(path, holder)
    holder = holder_of(path)
    who = f"process {holder.pid} on {holder.host}" if holder else "another process"
    raise LeaseHeldError(f"{what} is being worked on by {who} ({path}); nothing was done here.")


def _create(path: Path, mine: Holder) -> bool:
    """Create the file, with all its content, unless it exists."""
    content = json.dumps(_RECORD.content(mine))
    temporary = temporary_beside(path)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return _create_in_place(path, content)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _create_in_place(path: Path, content: str) -> bool:
    """The same on a file system without hard links; a reader may see the file still empty."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def remove_lease(path: Path, holder: Holder | None) -> None:
    """Move the lease of a holder that is gone away; of several that try, one succeeds.

    Args:
        path: of the lease's file.
        holder: as it was read; if another process has taken the lease since, it is put back.
    """
    aside = temporary_beside(path)
    try:
        path.rename(aside)
        if holder_of(aside) != holder:
            with suppress(FileExistsError):
                os.link(aside, path)
    except FileNotFoundError:
        return
    finally:
        aside.unlink(missing_ok=True)


def _is_stale(path: Path, holder: Holder | None) -> bool:
    if holder is not None and holder.host == host_name():
        alive = process_is_alive(holder.pid)
        return not alive or process_started(holder.pid) != holder.started
    probe = temporary_beside(path)
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return True
    finally:
        probe.unlink(missing_ok=True)


def process_started(pid: int) -> str:
    """When a process of this machine was started: its number may be another's later."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def holder_of(path: Path) -> Holder | None:
    """The owner of a lease; None where there is none, or its file cannot be read."""
    try:
        return _RECORD.read(path)
    except HarvestError:
        return None


def _renew(path: Path, stop: threading.Event) -> None:
    while not stop.wait(_HEARTBEAT_SECONDS):
        with suppress(OSError):
            os.utime(path)
