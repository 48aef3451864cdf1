"""Reads every firing of the first rows of a harvest, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.untrusted import read_json

if TYPE_CHECKING:
    from harvest_assets.harvester.firing_file import FiringFile

_MAX_ROW_LENGTH = 1 << 24
# Firings of a block in memory, with 24 bytes each.
_BLOCK_FIRINGS = 1 << 22


@dataclass(frozen=True)
class FiringBlock:
    """The n firings of consecutive rows, by row, position and component.

    Args:
        first_row, n_rows: which rows, whole ones.
        row: int64 [n].
        position: int32 [n], place in the row.
        component: int32 [n], index in flat order.
        ci: float32 [n], causal importance, or the firing strength of another kind.
        act: float32 [n], component activation; equals `ci` where the kind has no second value.
    """

    first_row: int
    n_rows: int
    row: NDArray[np.int64]
    position: NDArray[np.int32]
    component: NDArray[np.int32]
    ci: NDArray[np.float32]
    act: NDArray[np.float32]


def impossible_firings(
    kept: KeptFirings, count_i: NDArray[np.int64], n_tokens: int, threshold: float
) -> Iterator[str]:
    """What is wrong with firings, in phrases, beside the digest of their file.

    Args:
        kept: every firing of the first rows.
        count_i: int64 [C], firings of each component in all rows.
        n_tokens: positions of all rows.
        threshold: a component fires where its strength is strictly above.

    Raises:
        HarvestError: the file is damaged.
    """
    counts = np.zeros(len(count_i), np.int64)
    n_kept = kept.n_rows * kept.row_length
    for block in kept.blocks():
        if len(block.component) and block.component.max() >= len(counts):
            yield f"there is a component {block.component.max()} of {len(counts)}"
            return
        place = (block.row * kept.row_length + block.position) * len(counts) + block.component
        if (np.diff(place) <= 0).any():
            yield "they are not in order"
        # As the harvest compared them: in float32. Comparisons with NaN are false.
        if not (block.ci > np.float32(threshold)).all() or not np.isfinite(block.act).all():
            yield "a value is not one of a firing"
        counts += np.bincount(block.component, minlength=len(counts))
    if n_kept > n_tokens or (counts > count_i).any():
        yield "there are more than were counted"
    elif n_kept == n_tokens and (counts != count_i).any():
        yield "there are fewer than were counted"


@dataclass(frozen=True)
class KeptFirings:
    """Every firing of the first `n_rows` rows of a harvest; memory-mapped.

    Args:
        n_rows: rows whose firings are kept.
        n_firings: of these rows.
        row_length: tokens of a row.
    """

    n_rows: int
    n_firings: int
    row_length: int
    _file: FiringFile

    @classmethod
    def open(cls, paths: HarvestLayout) -> KeptFirings:
        """Those of a harvest.

        Raises:
            HarvestError: the harvest keeps none, or they are damaged.
        """
        if not paths.firings.exists():
            raise HarvestError(
                f"{paths.root.name} does not keep its firings; harvest again with --keep-firings."
            )
        from harvest_assets.harvester.firing_file import FiringFile

        file = FiringFile(paths.firings)
        try:
            length = read_json(paths.config)["context_length"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HarvestError(f"{paths.config} cannot be read: {reason_of(error)}.") from error
        if type(length) is not int or not 0 < length <= _MAX_ROW_LENGTH:
            raise HarvestError(
                f"{paths.config} has the context_length {str(length)[:100]}; expected a whole "
                f"number from 1 to {_MAX_ROW_LENGTH:,}."
            )
        return cls(file.n_rows, file.n_firings, length, file)

    @property
    def has_act(self) -> bool:
        """Whether the kind has a second value; without one, `act` repeats `ci`."""
        return self._file.has_act

    def blocks(
        self, n_rows: int | None = None, max_firings: int = _BLOCK_FIRINGS
    ) -> Iterator[FiringBlock]:
        """The firings of the first rows, a few rows at a time.

        Args:
            n_rows: rows from the first on; None: all.
            max_firings: of a block; one of a single row may have more.

        Raises:
            HarvestError: the file is damaged.
        """
        last = self.n_rows if n_rows is None else n_rows
        offsets = self._file.offsets(0, last)
        first = 0
        while first < last:
            within = int(np.searchsorted(offsets, offsets[first] + max_firings, side="right")) - 1
            stop = max(first + 1, within)
            yield self._of_rows(first, stop, offsets[first : stop + 1])
            first = stop

    def _of_rows(self, first: int, last: int, offsets: NDArray[np.int64]) -> FiringBlock:
        start, stop = int(offsets[0]), int(offsets[-1])
        position, component, ci, act = (
            self._file.column(name, start, stop) for name in ("position", "component", "ci", "act")
        )
        if len(ci) and (
            component.min() < 0 or position.min() < 0 or position.max() >= self.row_length
        ):
            raise HarvestError(
                f"{self._file.path} is damaged: a firing of rows {first} to {last - 1} is outside "
                "its row or of no component."
            )
        row = np.repeat(np.arange(first, last, dtype=np.int64), np.diff(offsets))
        return FiringBlock(first, last - first, row, position, component, ci, act)
