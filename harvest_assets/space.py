"""Is there room on the disk, before hours of work find out that there is not?"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
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


def estimated_bytes(layers: Sequence[tuple[str, int]], vocab_size: int, n_shards: int) -> int:
    """A lower estimate of what the states of all shards and the result files take together."""
    n = sum(c for _, c in layers)
    state = n * vocab_size * (8 + 1) + n * n // 2
    results = n * vocab_size * (8 + 4) + n * n * 8
    return (n_shards + 1) * state + results


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.2f} GiB"
