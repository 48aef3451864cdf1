"""Free space on a disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.filesize import decimal

from harvest_assets.errors import HarvestError


def require_free(folder: Path, n_bytes: int) -> None:
    """Check that a folder's file system has so many bytes left.

    Args:
        folder: need not exist yet.
        n_bytes: that will be written.

    Raises:
        HarvestError: it does not.
    """
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < n_bytes:
        raise HarvestError(
            f"{folder} has {decimal(free)} free, but the harvest needs about "
            f"{decimal(n_bytes)} at its peak; free some (harvest-assets clean), or "
            "set SPD_OUT_DIR to a larger disk."
        )
