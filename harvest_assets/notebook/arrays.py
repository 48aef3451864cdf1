"""Arrays of tokens as the data of a harvest."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harvest_assets.errors import HarvestError, counted
from harvest_assets.files.atomic import sweep, temporary_beside
from harvest_assets.files.layout import array_dir

if TYPE_CHECKING:
    from pathlib import Path

_COLUMN = "tokens"
_SEED = 0
_MAX_BATCH = 256


class Rows:
    """An array of tokens as the data of a harvest: row i of the harvest is row i of the array.

    Args:
        tokens: NumPy array or torch tensor of integers, [rows, tokens].

    Raises:
        HarvestError: it is something else.
    """

    def __init__(self, tokens: Any) -> None:
        self._rows = rows = _checked(tokens)
        digest = hashlib.sha256(str(rows.shape).encode() + rows.tobytes()).hexdigest()[:32]
        self._folder = array_dir(digest)
        self.data: dict[str, Any] = {
            "dataset_name": str(self._folder),
            "column_name": _COLUMN,
            "is_tokenized": True,
            "max_seq_len": rows.shape[1],
            "shuffle_each_epoch": False,
            "dataset_seed": _SEED,
        }

    def keep(self) -> None:
        """Store it where `data` says, so that the harvest can be read and extended later."""
        if not self._folder.is_dir():
            sweep(self._folder.parent)
            _write(self._folder, self._rows)

    def batch_size(self, given: int | None, n_batches: int | None) -> int:
        """Rows of a batch; only whole batches are harvested.

        Args:
            given: by the caller; None: one that the rows fill.
            n_batches: how many are harvested; None: all rows, so that the batch must divide them.

        Raises:
            HarvestError: the rows do not fill the batch that was given.
        """
        n_rows = len(self._rows)
        if given is not None and given > n_rows:
            raise HarvestError(
                f"batch_size is {given:,}, but data has {counted(n_rows, 'row')}; give at most "
                "that, or leave it out."
            )
        if given is not None or n_batches is not None:
            return given or min(n_rows, _MAX_BATCH)
        return max(b for b in range(1, _MAX_BATCH + 1) if n_rows % b == 0)


def _checked(tokens: Any) -> NDArray[np.int32]:
    found = np.asarray(tokens.cpu() if hasattr(tokens, "cpu") else tokens)
    if found.ndim != 2 or found.size == 0 or found.dtype.kind not in "iu":  # noqa: PLR2004
        raise HarvestError(
            f"data is an array of {found.dtype} of shape {list(found.shape)}; expected integers of "
            "shape [rows, tokens]."
        )
    low, high = int(found.min()), int(found.max())
    if low < 0 or high > np.iinfo(np.int32).max:
        raise HarvestError(f"data has tokens from {low} to {high}; expected ids from 0.")
    return np.ascontiguousarray(found, dtype=np.int32)


def _write(folder: Path, rows: NDArray[np.int32]) -> None:
    import datasets
    import pyarrow as pa

    from harvest_assets.data.dataset import permutation

    stored = np.empty_like(rows)
    stored[permutation(len(rows), _SEED)] = rows  # rows are harvested in permuted order
    offsets = pa.array(np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int64))
    lists = pa.LargeListArray.from_arrays(offsets, pa.array(stored.ravel()))
    table = pa.table({_COLUMN: lists.cast(pa.list_(pa.int32()))})
    staging = temporary_beside(folder)
    try:
        with _without_bars():
            datasets.Dataset(table).save_to_disk(staging)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _without_bars() -> Iterator[None]:
    import datasets

    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
