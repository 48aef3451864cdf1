"""One owner at a time for a shard or a merge, also on a shared file system without locks.

The owner's file is created exclusively and its time is renewed while the owner lives. A lease is
stale when its process is gone from this machine, or when its time has not been renewed for two
minutes; times are compared by the clock of the file system, never by those of two machines.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import host_name, process_is_alive, sweep, temporary_beside
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.untrusted import read_json

STALE_SECONDS = 120.0
_MOST_BYTES = 1 << 16
_HEARTBEAT_SECONDS = 10.0
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
# The leases of this process and their tokens.
_held: dict[Path, str] = {}


class LeaseHeldError(HarvestError):
    """Somebody else works on it; the message says who."""


def check_held(path: Path) -> None:
    """See that this process still has a lease; one that stood still too long has lost it.

    Raises:
        HarvestError: it has not; nothing must be published.
    """
    if path not in _held or holder_of(path).get("token") != _held[path]:
        raise HarvestError(f"{path} was taken over by another process while this one stood still.")


def is_held(path: Path) -> bool:
    """Does somebody who lives have this lease?"""
    holder = holder_of(path)
    return bool(holder) and not _is_stale(path, holder)


@contextmanager
def hold_lease(path: Path, what: str) -> Iterator[None]:
    """Hold a lease while the block runs.

    Args:
        path: of the lease's file.
        what: it is about, for the message.

    Raises:
        LeaseHeldError: another process that lives has it.
        HarvestError: a folder of the harvest is a link.
    """
    HarvestLayout(path.parent.parent).check_links()
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    token = temporary_beside(path).name
    owner = {
        "host": host_name(),
        "pid": os.getpid(),
        "started": process_started(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID"),
        "job_restarts": os.environ.get("SLURM_RESTART_COUNT", "0"),
    }
    _take(path, {**owner, "token": token}, what)
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
        if holder_of(path).get("token") == token:
            path.unlink(missing_ok=True)


def _take(path: Path, mine: dict[str, Any], what: str) -> None:
    for _ in range(2):
        if _create(path, mine):
            return
        holder = holder_of(path)
        if not _is_stale(path, holder):
            break
        remove_lease(path, holder)
    holder = holder_of(path)
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    raise LeaseHeldError(f"{what} is being worked on by {who} ({path}); nothing was done here.")


def _create(path: Path, content: dict[str, Any]) -> bool:
    """Make the file if there is none; it is there with its content or not at all."""
    temporary = temporary_beside(path)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(content))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_in_place(path, content)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _create_in_place(path: Path, content: dict[str, Any]) -> bool:
    """The same for a file system without hard links; who looks too early sees nobody's name."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(content))
    except FileExistsError:
        return False
    return True


def remove_lease(path: Path, holder: dict[str, Any]) -> None:
    """Move the lease of a holder that is gone away; of several that try, one has success.

    Between the look and the rename somebody may have taken the lease anew: it is put back.
    """
    aside = temporary_beside(path)
    try:
        path.rename(aside)
        if holder_of(aside).get("token") != holder.get("token"):
            with suppress(FileExistsError):
                os.link(aside, path)
    except FileNotFoundError:
        return
    finally:
        aside.unlink(missing_ok=True)


def _is_stale(path: Path, holder: dict[str, Any]) -> bool:
    if holder.get("host") == host_name():
        pid = int(holder["pid"])
        return not process_is_alive(pid) or process_started(pid) != holder.get("started")
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


def holder_of(path: Path) -> dict[str, Any]:
    """What the owner wrote into a lease; empty where nobody has it."""
    try:
        value = read_json(path, _MOST_BYTES)
    except (OSError, ValueError):
        return {}
    known = isinstance(value, dict) and type(value.get("pid")) is int and value["pid"] > 0
    return value if known and isinstance(value.get("host"), str) else {}


def _renew(path: Path, stop: threading.Event) -> None:
    while not stop.wait(_HEARTBEAT_SECONDS):
        with suppress(OSError):
            os.utime(path)
