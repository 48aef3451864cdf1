"""Stamps of files: equal stamps mean equal content, without reading it.

A stamp is a file's size, modification time, change time and inode. The file system sets the change
time on every write and nobody can set it back. Two writes in one tick of its clock have the same
time, so a file that was just changed has no stamp.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from harvest_assets.files.atomic import file_version

Stamp = tuple[int, int, int, int]

_MIN_AGE_NS = 2_000_000_000  # the clocks of some file systems advance by whole seconds


def stamps_of(paths: Sequence[Path]) -> tuple[Stamp, ...] | None:
    """The stamp of each file, to be taken before the digest; None if one was changed just now.

    Raises:
        OSError: a file does not exist.
    """
    stamps = tuple(file_version(path) for path in paths)
    newest = max((change_time for _, _, change_time, _ in stamps), default=0)
    return stamps if time.time_ns() - newest >= _MIN_AGE_NS else None


def stamp_of_published(path: Path) -> Stamp | None:
    """The stamp of a file that was just renamed into place, to be kept for later comparisons.

    A later write gives a file equal modification and change times. One that is renamed a tick after
    it was written has unequal ones, which tell the two apart however young it is.

    Returns:
        None if the two times are equal.

    Raises:
        OSError: the file does not exist.
    """
    stamp = file_version(path)
    return stamp if stamp[1] != stamp[2] else None
