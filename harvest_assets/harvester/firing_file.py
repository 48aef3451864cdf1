"""One file of firings: every firing of consecutive rows, sorted by row, position and component.

Safetensors, a tensor for each column: nothing is decoded, so a reader maps the file and takes any
rows as one slice, writing keeps up with a model, and the bytes depend on no compressor's version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import fsync_path
from harvest_assets.files.records import FileDigest
from harvest_assets.harvester.tensor_file import Column, save_columns

_OFFSETS = "row_offsets"
_COLUMNS = {
    "position": torch.int32,
    "component": torch.int32,
    "ci": torch.float32,
    "act": torch.float32,  # absent where the kind has no second value
}
# Firings that are copied at a time.
_PIECE = 1 << 22


@dataclass(frozen=True)
class RowsOfFirings:
    """The m firings of some consecutive rows.

    Args:
        per_row: int64 [rows], firings of each row.
        position: int32 [m], place in the row.
        component: int32 [m], flat index.
        ci: float32 [m].
        act: float32 [m]; None where the kind has no second value.
    """

    per_row: NDArray[np.int64]
    position: NDArray[np.int32]
    component: NDArray[np.int32]
    ci: NDArray[np.float32]
    act: NDArray[np.float32] | None

    @classmethod
    def joined(cls, parts: Sequence[RowsOfFirings]) -> RowsOfFirings:
        """The firings of several parts, at least one, that follow one another."""
        acts = [part.act for part in parts if part.act is not None]
        return cls(
            np.concatenate([part.per_row for part in parts]),
            np.concatenate([part.position for part in parts]),
            np.concatenate([part.component for part in parts]),
            np.concatenate([part.ci for part in parts]),
            np.concatenate(acts) if acts else None,
        )

    def save(self, path: Path) -> FileDigest:
        """Write a file, on the disk when this returns."""
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.per_row)])
        names = [name for name in _COLUMNS if getattr(self, name) is not None]
        digest = _save(
            path,
            len(self.per_row),
            len(self.ci),
            {_OFFSETS: [offsets], **{name: [getattr(self, name)] for name in names}},
        )
        fsync_path(path)
        return digest


def _save(path: Path, n_rows: int, n: int, pieces: dict[str, Iterable[NDArray[Any]]]) -> FileDigest:
    columns = {
        name: Column(
            _COLUMNS.get(name, torch.int64), (n_rows + 1,) if name == _OFFSETS else (n,), values
        )
        for name, values in pieces.items()
    }
    return save_columns(path, columns)


class FiringFile:
    """A file of firings, memory-mapped.

    Args:
        path: of the file.

    Raises:
        HarvestError: it is missing, or does not hold firings.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_file():  # opening a pipe would wait
            raise HarvestError(f"{path} is not a regular file.")
        try:
            self._file = cast("Any", safe_open(path, framework="numpy"))
            names = set(self._file.keys())
            self._slices = {name: self._file.get_slice(name) for name in names}
            shapes = {name: tuple(part.get_shape()) for name, part in self._slices.items()}
            dtypes = {name: part.get_dtype() for name, part in self._slices.items()}
        except (OSError, SafetensorError) as error:
            raise HarvestError(f"{path} cannot be read: {error}.") from error
        wanted = {_OFFSETS: "I64", "position": "I32", "component": "I32", "ci": "F32", "act": "F32"}
        length = shapes.get("ci")
        if (
            wanted.keys() - names - {"act"}
            or any(dtypes[name] != wanted.get(name) for name in names)
            or any(shapes[name] != length for name in names - {_OFFSETS})
            or length is None
            or len(length) != 1
            or len(shapes[_OFFSETS]) != 1
            or shapes[_OFFSETS][0] < 1
        ):
            raise HarvestError(f"{path} does not hold firings: its tensors are {shapes}.")
        self.has_act = "act" in names
        self.n_firings = int(length[0])
        self.n_rows = int(shapes[_OFFSETS][0]) - 1

    def offsets(self, first: int, last: int) -> NDArray[np.int64]:
        """Where the firings of the rows from `first` to `last` begin, and where the last ends.

        Raises:
            HarvestError: they do not rise from 0 to the number of firings, or there are fewer rows.
        """
        if last > self.n_rows:
            raise HarvestError(f"{self.path} has {self.n_rows} rows of firings instead of {last}.")
        found = np.asarray(self._slices[_OFFSETS][first : last + 1])
        low = 0 if first == 0 else found[0]
        high = self.n_firings if last == self.n_rows else found[-1]
        in_order = bool((np.diff(found) >= 0).all())
        if not in_order or found[0] != low or found[-1] != high or not 0 <= low <= high:
            raise HarvestError(f"{self.path} is damaged: its row_offsets are not in order.")
        if high > self.n_firings:
            raise HarvestError(f"{self.path} is damaged: its row_offsets exceed its firings.")
        return found

    def column(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Values of a column from firing `start` to `stop`; of a missing `act`, those of `ci`."""
        if name == "act" and not self.has_act:
            name = "ci"
        if start == stop:  # safetensors takes no slice of an empty tensor
            return np.zeros(0, np.float32 if name in ("ci", "act") else np.int32)
        return np.asarray(self._slices[name][start:stop])

    def pieces(self, name: str, n: int) -> Iterator[NDArray[Any]]:
        """The first n values of a column, a piece at a time."""
        for start in range(0, n, _PIECE):
            yield self.column(name, start, min(start + _PIECE, n))


def join_files(sources: Sequence[Path], path: Path, n_rows: int) -> FileDigest:
    """Write the firings of several files, at least one, of rows that follow one another.

    Args:
        sources: the files.
        path: of the new file.
        n_rows: rows from the first on; the files have at least as many.

    Raises:
        HarvestError: one does not hold firings, or only some have activations.
    """
    files = [FiringFile(source) for source in sources]
    if len({file.has_act for file in files}) > 1:
        raise HarvestError(f"Only some of the firings in {path} have component activations.")
    before = np.cumsum([0, *(file.n_rows for file in files)])
    rows = np.clip(n_rows - before[:-1], 0, np.diff(before)).tolist()
    ends = [int(file.offsets(0, n)[-1]) for file, n in zip(files, rows, strict=True)]

    def offsets() -> Iterator[NDArray[np.int64]]:
        yield np.zeros(1, np.int64)
        before = 0
        for file, n, end in zip(files, rows, ends, strict=True):
            yield file.offsets(0, n)[1:] + before
            before += end

    def column(name: str) -> Iterator[NDArray[Any]]:
        for file, end in zip(files, ends, strict=True):
            yield from file.pieces(name, end)

    names = [name for name in _COLUMNS if name != "act" or files[0].has_act]
    return _save(
        path,
        n_rows,
        sum(ends),
        {_OFFSETS: offsets(), **{name: column(name) for name in names}},
    )
