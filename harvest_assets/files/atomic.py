"""Files that appear complete or not at all: write beside, fsync, rename."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

_TEMPORARY = re.compile(r"\..+\.(?P<host>[^.]+)-(?P<pid>\d+)-[0-9a-f]{32}\.tmp")
# Whether another machine still writes to a file cannot be known.
_FOREIGN_SECONDS = 24 * 3600.0
# What a file system without hard links answers.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def host_name() -> str:
    """This machine's name, as it is written in the names of temporary files."""
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname()) or "_"


def temporary_beside(path: Path) -> Path:
    """A new hidden name in the same folder, which includes the host and the process."""
    return path.with_name(f".{path.name}.{host_name()}-{os.getpid()}-{uuid.uuid4().hex}.tmp")


def process_is_alive(pid: int) -> bool:
    """Whether a process of this number is running on this machine.

    One that has ended is not, even if its parent never reaps it.
    """
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except (psutil.NoSuchProcess, ValueError, OverflowError):  # no number of a process
        return False
    except psutil.AccessDenied:
        return True


def abandoned(folder: Path) -> list[Path]:
    """The temporary files and folders in a folder whose writers no longer exist."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _TEMPORARY.fullmatch(path.name)
        if match is None:
            continue
        if match["host"] == host_name():
            pid = int(match["pid"])
            gone = pid != os.getpid() and not process_is_alive(pid)
        else:
            try:
                gone = time.time() - path.stat().st_mtime > _FOREIGN_SECONDS
            except FileNotFoundError:
                continue
        if gone:
            found.append(path)
    return found


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders that processes left when they died."""
    for path in abandoned(folder):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder; missing ones, and those that cannot be removed, are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def file_version(path: Path) -> tuple[int, int, int, int]:
    """A file's size, modification time, change time and inode: a key for caches of small files.

    Where a wrong answer would do harm, use `stamps_of`, which trusts no file changed just now.

    Raises:
        OSError: the file does not exist.
    """
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def fsync_path(path: Path) -> None:
    """Make sure that a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_into_place(temporary: Path, path: Path) -> None:
    """Put a finished file in the place of `path`; readers see the old or the new one, whole."""
    fsync_path(temporary)
    temporary.replace(path)
    temporary.unlink(missing_ok=True)  # still there if both were names of one file
    fsync_path(path.parent)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path in the same folder; what was written there becomes `path`.

    If the block raises, `path` stays as it was and the temporary file goes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        rename_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_path(path: Path) -> Iterator[Path]:
    """As `atomic_path`, for a file that nobody else may have made.

    Raises:
        FileExistsError: `path` exists; it stays as it is. On a file system without hard links, one
            that appears at the same moment may be missed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        fsync_path(temporary)
        _link(temporary, path)
        fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, "It exists", str(path)) from error
        temporary.rename(path)


def write_json(path: Path, value: Any, *, new: bool = False) -> None:
    """Write indented JSON atomically.

    Raises:
        FileExistsError: `path` exists, and the file should be a `new` one.
    """
    with (new_path if new else atomic_path)(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
