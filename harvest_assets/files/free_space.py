"""Room on a disk, and sizes in words."""

from __future__ import annotations

import shutil
from pathlib import Path

from harvest_assets.errors import HarvestError

# From here on three digits are 1,000 of the unit.
_NEXT_UNIT = 999.5


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
        raise HarvestError(
            f"{folder} has {size_text(free)} free, but the harvest needs about "
            f"{size_text(n_bytes)} at its peak; free some (harvest-assets clean), or "
            "set SPD_OUT_DIR to a larger disk."
        )


def size_text(n_bytes: int) -> str:
    """Bytes as people read them: `1.5 GB`, three digits."""
    size, unit = float(n_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if size < _NEXT_UNIT:
            break
        size, unit = size / 1000, larger
    return f"{size:,.3g} {unit}"
