"""Whose a file is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def is_own(file: Path) -> bool:
    """Whether only the user of this process, or root, owns and can change a file.

    A link counts as the file that it points to, if it is itself the user's.

    Raises:
        OSError: the file is missing.
    """
    found, owners = file.stat(), (0, os.getuid())
    is_theirs = file.lstat().st_uid not in owners or found.st_uid not in owners
    return not is_theirs and not found.st_mode & WRITABLE_BY_OTHERS
