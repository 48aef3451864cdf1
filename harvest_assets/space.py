"""Is there room on the disk, before hours of work find out that there is not?"""

from __future__ import annotations

import shutil
from pathlib import Path

from harvest_assets.errors import HarvestError


def require_free(folder: Path, n_bytes: int) -> None:
    """See that a folder's file system has so many bytes left.

    Raises:
        HarvestError: it has not.
    """
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < n_bytes:
        msg = (
            f"{folder} has {_gib(free)} free, but the harvest needs about "
            f"{_gib(n_bytes)} at its peak; free some (python -m harvest_assets clean), or "
            "set SPD_OUT_DIR to a larger disk."
        )
        raise HarvestError(msg)


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.2f} GiB"
