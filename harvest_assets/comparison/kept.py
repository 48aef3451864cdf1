"""The firings of two harvests that kept them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harvest_assets.comparison.firings import Firings
from harvest_assets.comparison.joint_pass import require_memory_for_firings
from harvest_assets.comparison.same_rows import have_one_order
from harvest_assets.errors import HarvestError
from harvest_assets.results.firings import KeptFirings

if TYPE_CHECKING:
    from harvest_assets.comparison.counting import Progress
    from harvest_assets.comparison.opened import OpenedHarvest


def kept_firings(
    one: OpenedHarvest, other: OpenedHarvest, n_rows: int | None, progress: Progress
) -> tuple[tuple[Firings, Firings], int] | None:
    """The firings at the first rows, and how many rows these are.

    Args:
        one: the first harvest.
        other: the second.
        n_rows: rows that are wanted; None: all whose firings both kept.
        progress: called with what is done, how much of it, and of how much.

    Returns:
        None where one of them did not keep the firings of so many rows, or where it is not certain
        that a row has the same number in both.

    Raises:
        HarvestError: a file is damaged, or the firings do not fit into memory.
    """
    harvests = (one, other)
    if not all(it.paths.firings.exists() for it in harvests) or not have_one_order(one, other):
        return None
    kept = [KeptFirings.open(it.paths) for it in harvests]
    there = min(it.n_rows for it in kept)
    wanted = there if n_rows is None else n_rows
    if not 0 < wanted <= there:
        return None
    for harvest, it in zip(harvests, kept, strict=True):
        if wanted * it.row_length > harvest.n_tokens:
            raise HarvestError(
                f"{harvest.paths.firings} has {it.n_rows:,} rows of {it.row_length:,} tokens, but "
                f"the harvest has {harvest.n_tokens:,} tokens; verify it."
            )
    require_memory_for_firings(sum(it.n_firings * wanted // it.n_rows for it in kept))
    first, second = (_listed(*each, wanted, progress) for each in zip(harvests, kept, strict=True))
    return (first, second), wanted


def _listed(harvest: OpenedHarvest, kept: KeptFirings, n_rows: int, progress: Progress) -> Firings:
    n_components = len(harvest.frame)
    per_position, component = [], []
    for block in kept.blocks(n_rows):
        if len(block.component) and block.component.max() >= n_components:
            raise HarvestError(
                f"{harvest.paths.firings} is damaged: it has firings of component "
                f"{block.component.max()}, but there are {n_components}."
            )
        place = (block.row - block.first_row) * kept.row_length + block.position
        per_position.append(np.bincount(place, minlength=block.n_rows * kept.row_length))
        component.append(np.array(block.component))  # the file is mapped
        progress(f"reading {harvest.name}", block.first_row + block.n_rows, n_rows)
    return Firings.joined(n_components, per_position, component)
