"""Free space on a disk."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.filesize import decimal

from harvest_assets.errors import HarvestError


def free_bytes(folder: Path) -> int:
    """Bytes left on a folder's file system; the folder need not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def require_free(
    folder: Path,
    n_bytes: int,
    *,
    at_least: int | None = None,
    remedy: str = "set SPD_OUT_DIR to a larger disk",
) -> None:
    """Check that a folder's file system has so many bytes left.

    Args:
        folder: need not exist yet.
        n_bytes: that will be written, about.
        at_least: that will be written for certain; None: `n_bytes`.
        remedy: what to do if nothing can be freed.

    Raises:
        HarvestError: it does not.
    """
    free = free_bytes(folder)
    if free < (n_bytes if at_least is None else at_least):
        raise HarvestError(
            f"{folder} has {decimal(free)} free, but the harvest needs about "
            f"{decimal(n_bytes)} at its peak; free some (harvest-assets clean), or "
            f"{remedy}."
        )
