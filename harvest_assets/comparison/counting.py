"""Count pairs of components of two harvests: from their kept firings, else by computing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from harvest_assets.comparison.stored_pairs import PairsOf

if TYPE_CHECKING:
    import polars as pl

    from harvest_assets.comparison.opened import OpenedHarvest

DEFAULT_ROWS = 200
Progress = Callable[[str, int, int], None]


def count_pairs(
    one: OpenedHarvest, other: OpenedHarvest, n_rows: int | None, top: int, progress: Progress
) -> tuple[PairsOf, pl.DataFrame]:
    """The best matches of the components of one harvest among those of another.

    Args:
        one: the first harvest.
        other: the second, of the same rows.
        n_rows: rows to count over; None: all whose firings were kept, else 200.
        top: matches of each component at most.
        progress: called with what is done, how much of it, and of how much.

    Raises:
        HarvestError: as `kept_firings` and `joint_pass`.
    """
    from harvest_assets.comparison.joint_pass import joint_pass
    from harvest_assets.comparison.kept import kept_firings
    from harvest_assets.comparison.pairs import best_pairs

    found, source = kept_firings(one, other, n_rows, progress), "kept firings"
    if found is None:
        found, source = joint_pass(one, other, n_rows or DEFAULT_ROWS, progress), "joint pass"
    firings, n_rows = found
    pairs = best_pairs(
        firings[0],
        firings[1],
        one.frame["component_key"].to_list(),
        other.frame["component_key"].to_list(),
        top,
        lambda done, total: progress("counting pairs", done, total),
    )
    return PairsOf(n_rows, firings[0].n_positions, top, source), pairs
