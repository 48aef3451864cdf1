"""Is there room on the disk, before hours of work find out that there is not?"""

from __future__ import annotations

import shutil
from pathlib import Path

from harvest_assets.errors import HarvestError
from harvest_assets.footprint import size_text


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
            f"{folder} has {size_text(free)} free, but the harvest needs about "
            f"{size_text(n_bytes)} at its peak; free some (python -m harvest_assets clean), or "
            "set SPD_OUT_DIR to a larger disk."
        )
        raise HarvestError(msg)
