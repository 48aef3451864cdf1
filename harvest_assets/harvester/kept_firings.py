"""Every firing of a share, written in blocks while the share is computed.

1. After each group of rows its firings are listed in order and buffered.
2. A full buffer, or one whose state is about to be saved, becomes a block: a file of its own that
   never changes.
3. A saved state has all blocks of its rows: it shares the files with the state before it by hard
   links. So state and firings are committed together, and none is missing or there twice.
4. Blocks of consecutive rows are joined to the result.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import Field

from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import fsync_path
from harvest_assets.files.free_space import require_free
from harvest_assets.files.records import FileDigest, Record, damage
from harvest_assets.harvester.firing_file import FiringFile, RowsOfFirings, join_files

if TYPE_CHECKING:
    from harvest_assets.harvester.stream import Activations

# Firings in memory before they become a block: 16 bytes each.
_BLOCK_FIRINGS = 1 << 22
# Values that are compared with the threshold together; CUDA lists at most 2^31 at once.
_LISTED_VALUES = 1 << 28
_META_FILE = "firings.json"
_Row = Annotated[int, Field(ge=0, lt=1 << 62)]
_NAME = re.compile(r"\d{12}\.safetensors", re.ASCII)


@dataclass(frozen=True)
class _BlocksMeta:
    """What `firings.json` holds: the first row and the one after the last, and the files."""

    rows: tuple[_Row, _Row]
    files: dict[str, FileDigest]

    def __post_init__(self) -> None:
        wrong = [name for name in self.files if not _NAME.fullmatch(name)]
        if wrong:
            raise ValueError(f"{wrong[0][:100]!r} is not a name of a block")


_META = Record(_BlocksMeta, "a list of blocks of firings")


@dataclass(frozen=True)
class FiringBlocks:
    """Blocks of firings on disk, in the order of their rows.

    Args:
        rows: whose firings they are; the files may have those of further rows.
        files: where each is stored, and its digest, by the name it has in a state.
    """

    rows: range
    files: dict[str, tuple[Path, FileDigest]]

    @classmethod
    def load(cls, folder: Path) -> FiringBlocks:
        """Those in a folder that `save` wrote.

        Raises:
            HarvestError: the list of them is missing or damaged.
        """
        meta = _META.read(folder / _META_FILE)
        files = {name: (folder / name, meta.files[name]) for name in sorted(meta.files)}
        return cls(range(*meta.rows), files)

    @classmethod
    def of_whole(cls, path: Path, digest: FileDigest) -> FiringBlocks:
        """A single file of all rows from row 0 on.

        Raises:
            HarvestError: it is not a file of firings.
        """
        return cls(range(FiringFile(path).n_rows), {block_name(0): (path, digest)})

    def save(self, folder: Path) -> None:
        """Give the files, which never change, a second name in a new folder; else copy them."""
        folder.mkdir()
        for name, (path, _) in self.files.items():
            link_or_copy(path, folder / name)
        fsync_path(folder)
        digests = {name: digest for name, (_, digest) in self.files.items()}
        meta = _BlocksMeta((self.rows.start, self.rows.stop), digests)
        _META.write(folder / _META_FILE, meta)

    def problems(self) -> list[str]:
        """What is wrong with the files, in sentences.

        Raises:
            HarvestError: one of them is not a file of firings.
        """
        found, row = [], self.rows.start
        for name, (path, digest) in self.files.items():
            damaged = damage(path.parent, {path.name: digest})
            found += damaged
            if damaged:
                continue
            if int(name.partition(".")[0]) != row:
                found.append(f"{path} does not begin at row {row}.")
            row += FiringFile(path).n_rows
        if not found and row != self.rows.stop:
            found.append(f"The firings end at row {row} instead of {self.rows.stop}.")
        return found

    def join(self, path: Path) -> FileDigest:
        """Write all of them, at least one, as one file; a single one gets a second name.

        Raises:
            HarvestError: one does not hold firings, or only some have activations.
        """
        (first, digest), *rest = self.files.values()
        n_rows = len(self.rows)
        if rest or FiringFile(first).n_rows > n_rows:
            return join_files([first, *(source for source, _ in rest)], path, n_rows)
        link_or_copy(first, path)
        return digest

    def of_first(self, n_rows: int) -> FiringBlocks:
        """Those of the first rows, to be joined."""
        return FiringBlocks(self.rows[:n_rows], self.files)

    @classmethod
    def of_states(cls, states: Sequence[FiringBlocks]) -> FiringBlocks:
        """Those of several states, at least one, whose rows follow one another."""
        files = {name: file for state in states for name, file in state.files.items()}
        first = states[0].rows.start
        stop = max((state.rows.stop for state in states if state.rows), default=first)
        return cls(range(first, stop), {name: files[name] for name in sorted(files)})


def block_name(first_row: int) -> str:
    """The name of the file of a block; names sort as rows do."""
    return f"{first_row:012d}.safetensors"


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that is never changed a second name; else copy it."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
        fsync_path(target)


class FiringWriter:
    """Collects the firings of consecutive rows, and writes them in blocks.

    Args:
        folder: for the blocks; a new one.
        first_row: of the first block.
        n_rows: that will be added; None where not known. When the first block is written, the disk
            must have room for as many firings of each further row.
    """

    def __init__(self, folder: Path, first_row: int, n_rows: int | None = None) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._n_rows = n_rows
        self._is_checked = n_rows is None
        self._first_row = self._next_row = first_row
        self._files: dict[str, tuple[Path, FileDigest]] = {}
        self._buffer: list[RowsOfFirings] = []

    def continue_after(self, blocks: FiringBlocks) -> None:
        """Add what earlier blocks hold; they begin at the first row."""
        for name, (path, digest) in blocks.files.items():
            link_or_copy(path, self._folder / name)
            self._files[name] = (self._folder / name, digest)
        self._next_row = blocks.rows.stop

    def add(self, firings: RowsOfFirings) -> None:
        """Add the next rows."""
        self._buffer.append(firings)
        if sum(len(part.ci) for part in self._buffer) >= _BLOCK_FIRINGS:
            self._write_block()

    def blocks(self) -> FiringBlocks:
        """All that was added, on the disk."""
        if self._buffer:
            self._write_block()
        return FiringBlocks(range(self._first_row, self._next_row), dict(self._files))

    def _write_block(self) -> None:
        block = RowsOfFirings.joined(self._buffer)
        name = block_name(self._next_row)
        path = self._folder / name
        self._files[name] = (path, block.save(path))
        self._next_row += len(block.per_row)
        self._buffer = []
        if not self._is_checked:
            self._is_checked = True
            self._require_free(path.stat().st_size / len(block.per_row))

    def _require_free(self, bytes_per_row: float) -> None:
        """Check that there is room for the rows that are left.

        Raises:
            HarvestError: there is not.
        """
        left = self._first_row + (self._n_rows or 0) - self._next_row
        require_free(
            self._folder,
            round(bytes_per_row * left),
            remedy="keep the firings of fewer rows (--keep-firings)",
        )


class FiringRecorder:
    """Lists the firings of what a model computes, for a share whose firings are kept.

    Args:
        folder: for the blocks; a new one.
        rows: of the share, those whose firings are kept.
        threshold: a component fires where its firing strength is strictly above.
    """

    def __init__(self, folder: Path, rows: range, threshold: float) -> None:
        self._writer = FiringWriter(folder, rows.start, len(rows))
        self._rows = rows
        self._threshold = threshold

    def continue_after(self, blocks: FiringBlocks, n_rows: int) -> None:
        """Continue after the first rows of the share, whose firings are in blocks.

        Raises:
            HarvestError: the blocks are of other rows.
        """
        if blocks.rows != self._rows[:n_rows]:
            raise HarvestError("The firings of other rows were saved.")
        self._writer.continue_after(blocks)

    def add(self, answer: Activations, first_row: int, rows: slice) -> None:
        """Add what a model computed.

        Args:
            answer: for a group of rows.
            first_row: number in the whole harvest of the first row that is added.
            rows: which of the group to add, those that `Harvester.process_batch` was given.
        """
        strengths, second = answer.firing_strengths[rows], answer.second_values
        seconds = None if second is None else second[rows]
        n_kept = max(0, min(len(strengths), self._rows.stop - first_row))
        for firings in list_firings(strengths[:n_kept], seconds, self._threshold):
            self._writer.add(firings)

    def blocks(self) -> FiringBlocks:
        """All that was added, on the disk."""
        return self._writer.blocks()


def list_firings(
    strengths: torch.Tensor, seconds: torch.Tensor | None, threshold: float
) -> Iterator[RowsOfFirings]:
    """The firings of rows by row, position and component, a few consecutive rows at a time.

    Args:
        strengths: float [B, S, C].
        seconds: float [B or more, S, C], second values; None if the kind has none.
        threshold: a component fires where its strength is strictly above.
    """
    step = max(1, _LISTED_VALUES // max(1, strengths.shape[1] * strengths.shape[2]))
    for start in range(0, len(strengths), step):
        part = slice(start, min(start + step, len(strengths)))
        yield _listed(strengths[part], None if seconds is None else seconds[part], threshold)


def _listed(
    strengths: torch.Tensor, seconds: torch.Tensor | None, threshold: float
) -> RowsOfFirings:
    n_rows, length, n = strengths.shape
    flat = (strengths > threshold).flatten().nonzero().squeeze(1)
    at = flat.div(n, rounding_mode="floor")

    def values(of: torch.Tensor) -> np.ndarray:
        return of.detach().flatten().index_select(0, flat).float().cpu().numpy()

    return RowsOfFirings(
        per_row=torch.bincount(at // length, minlength=n_rows).cpu().numpy(),
        position=(at % length).int().cpu().numpy(),
        component=(flat - at * n).int().cpu().numpy(),
        ci=values(strengths),
        act=None if seconds is None else values(seconds),
    )
