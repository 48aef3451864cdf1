"""Stamps of files: equal stamps mean equal content, without reading it.

A stamp is a file's size, modification time, change time and inode. The file system sets the change
time on every write and nobody can set it back. Two writes in one tick of its clock have the same
time, so a file that was just changed has no stamp.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

Stamp = tuple[int, int, int, int]

_MIN_AGE_NS = 100_000_000  # several ticks


def stamps_of(paths: Sequence[Path]) -> tuple[Stamp, ...] | None:
    """The stamp of each file, to be taken before the digest; None if one was changed just now."""
    found = [path.stat() for path in paths]
    if time.time_ns() - max((s.st_ctime_ns for s in found), default=0) < _MIN_AGE_NS:
        return None
    return tuple((s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for s in found)
