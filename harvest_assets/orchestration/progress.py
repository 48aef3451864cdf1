"""The progress of a shard, or of tokenizing, in a small file that is rewritten meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harvest_assets.errors import HarvestError
from harvest_assets.files.records import Older, Record

_SECONDS_BETWEEN_FILES = 0.5
_SECONDS_BETWEEN_LINES = 60.0


@dataclass(frozen=True)
class Progress:
    """Rows done of a share, and since when.

    Args:
        rows_done: rows harvested so far.
        rows: rows of the share.
        tokens_per_row: tokens of a row.
        seconds: time since the first row that was not done before.
        rows_before: rows that were done before, by a process that was interrupted.
    """

    rows_done: int
    rows: int
    tokens_per_row: int
    seconds: float
    rows_before: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Speed so far."""
        tokens = (self.rows_done - self.rows_before) * self.tokens_per_row
        return tokens / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        left = (self.rows - self.rows_done) * self.tokens_per_row
        speed = self.tokens_per_second
        ahead = f", {left / speed:,.0f} s left" if speed else ""
        return f"{self.rows_done:,} of {self.rows:,} rows, {speed:,.0f} tokens/s{ahead}"


_RECORD = Record(Progress, "the progress of a shard", max_bytes=1 << 16, older=Older())


@dataclass(frozen=True)
class Tokenizing:
    """Rows of a dataset that are tokenized.

    Args:
        rows_done: so far.
        rows: of the dataset; None of a stream.
    """

    rows_done: int
    rows: int | None


_TOKENIZING = Record(Tokenizing, "the progress of tokenizing", max_bytes=1 << 16)


Report = Callable[[int, int | None], None]


@contextmanager
def tokenizing(
    path: Path, log: Callable[[str], None]
) -> Iterator[Callable[[int, int | None], None]]:
    """Yields a function of rows done and rows, which rewrites the file and logs once a minute.

    Args:
        path: the file; it is removed when the block ends.
        log: takes a line of text.
    """
    filed = logged = time.monotonic()

    def report(rows_done: int, rows: int | None) -> None:
        nonlocal filed, logged
        now = time.monotonic()
        if now - filed > _SECONDS_BETWEEN_FILES:
            filed = now
            _TOKENIZING.write(path, Tokenizing(rows_done, rows))
        if now - logged > _SECONDS_BETWEEN_LINES:
            logged = now
            of_all = "" if rows is None else f" of {rows:,}"
            log(f"{rows_done:,}{of_all} rows of the dataset are tokenized")

    try:
        yield report
    finally:
        path.unlink(missing_ok=True)


def read_tokenizing(path: Path) -> Tokenizing | None:
    """The content of the file; None if it is missing or damaged."""
    try:
        return _TOKENIZING.read(path)
    except HarvestError:
        return None


class ProgressWriter:
    """Called after each group of rows; rewrites the file now and then and logs once a minute.

    Args:
        path: the file.
        rows: rows of the share.
        tokens_per_row: tokens of a row.
        log: takes a line of text.
        rows_before: rows that were done before.
    """

    def __init__(
        self,
        path: Path,
        rows: int,
        tokens_per_row: int,
        log: Callable[[str], None],
        rows_before: int = 0,
    ) -> None:
        self._rows_before = rows_before
        self._path = path
        self._rows = rows
        self._tokens_per_row = tokens_per_row
        self._log = log
        self._started = self._filed = self._logged = time.monotonic()
        if rows_before:  # else the share would seem to begin again
            _RECORD.write(path, Progress(rows_before, rows, tokens_per_row, 0.0, rows_before))

    def __call__(self, rows_done: int) -> None:
        """Report that so many rows are done."""
        now = time.monotonic()
        progress = Progress(
            rows_done, self._rows, self._tokens_per_row, now - self._started, self._rows_before
        )
        if now - self._filed > _SECONDS_BETWEEN_FILES or rows_done == self._rows:
            self._filed = now
            _RECORD.write(self._path, progress)
        if now - self._logged > _SECONDS_BETWEEN_LINES:
            self._logged = now
            self._log(str(progress))


def read_progress(path: Path) -> Progress | None:
    """The content of the file; None if it is missing or damaged."""
    try:
        return _RECORD.read(path)
    except HarvestError:
        return None
