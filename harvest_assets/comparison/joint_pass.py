"""The firings of two harvests at the same rows, computed again: the first that were harvested.

One model is in memory at a time. Each computes its rows in the groups in which it was harvested, so
that on the same device the same components fire, to the last bit.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import psutil
from rich.filesize import decimal

from harvest_assets.comparison.firings import BYTES_PER_FIRING, Firings
from harvest_assets.comparison.source import RunSource
from harvest_assets.errors import HarvestError
from harvest_assets.system.gpus import require_device

if TYPE_CHECKING:
    from harvest_assets.comparison.counting import Progress
    from harvest_assets.comparison.opened import OpenedHarvest
    from harvest_assets.data.token_rows import TokenRows


def joint_pass(
    one: OpenedHarvest, other: OpenedHarvest, n_rows: int, progress: Progress
) -> tuple[tuple[Firings, Firings], int]:
    """The firings of two harvests at their first rows, and how many rows these are.

    Args:
        one: the first harvest.
        other: the second, of the same rows.
        n_rows: rows from the first on; at most those harvested are used.
        progress: called with what is done, how much of it, and of how much.

    Raises:
        HarvestError: a run cannot be opened, its rows are gone, or there is not enough memory.
    """
    require_device()
    sources = [RunSource.of(harvest) for harvest in (one, other)]
    rows = _rows(one, other)
    n_rows = min(n_rows, rows.n_rows, one.n_rows)
    require_memory_for_firings(sum(it.expected_firings(n_rows) for it in (one, other)))
    first, second = (
        source.firings(rows, n_rows, partial(_report, progress, source.harvest.name, n_rows))
        for source in sources
    )
    return (first, second), n_rows


def _report(progress: Progress, name: str, n_rows: int, done: int) -> None:
    progress(f"computing {name}", done, n_rows)


def require_memory_for_firings(n_firings: int) -> None:
    """Check that this machine can hold so many firings.

    Raises:
        HarvestError: it cannot.
    """
    needed, available = n_firings * BYTES_PER_FIRING, psutil.virtual_memory().available
    if needed > available:
        raise HarvestError(
            f"About {n_firings:,} firings take {decimal(needed)} of memory, but this machine has "
            f"{decimal(available)} free; compare fewer rows (--rows)."
        )


def _rows(one: OpenedHarvest, other: OpenedHarvest) -> TokenRows:
    """The rows of the one; those of the other where they are not on this machine."""
    for harvest in (one, other):
        shared = harvest.shared_rows()
        if shared is not None and shared.directory.is_dir():
            return shared.rows()
    raise HarvestError(
        f"The token rows of {one.name} and {other.name} are not on this machine; harvest one of "
        "them here, which prepares them."
    )
