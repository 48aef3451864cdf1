"""The rows of tokens of a harvest: made once for equal data, shared by all harvests of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from harvest_assets.data.data import DataSpec, TokenRows, fingerprint, write_token_rows
from harvest_assets.data.dataset import dataset_digest
from harvest_assets.data.stream_order import STREAM_ORDER_VERSION
from harvest_assets.data.token_rows import FORMAT_VERSION
from harvest_assets.errors import HarvestError, TransientError
from harvest_assets.files import layout
from harvest_assets.files.atomic import fsync_path, remove, sweep, temporary_beside
from harvest_assets.files.records import Older, Record
from harvest_assets.files.stamps import stamps_of


@dataclass(frozen=True)
class SharedTokenRows:
    """Rows that are stored in `data/<fingerprint>/`.

    Args:
        fingerprint: of dataset, tokenizer, length and order.
        n_rows: how many rows there are.
        n_ctx: tokens of a row.
        sources: identifies the local files they were made of as they were then; None if the data
            are not local. See `_sources`.
    """

    fingerprint: Annotated[str, Field(pattern="^[0-9A-Za-z]{1,128}$")]
    n_rows: Annotated[int, Field(ge=0)]
    n_ctx: Annotated[int, Field(ge=1)]
    sources: str | None = dataclasses.field(default=None, compare=False)

    @classmethod
    def prepare(
        cls,
        spec: DataSpec,
        n_rows: int | None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> SharedTokenRows:
        """Tokenize the data unless equal data are already there, and can be read.

        Args:
            spec: what determines the rows.
            n_rows: how many are needed at most; None for all. Only a stream is cut by it.
            progress: called with the number of dataset rows done, and of how many if known.

        Raises:
            HarvestError: the dataset or the tokenizer is missing or does not fit.
            TransientError: one of them changed while it was read.
        """
        sources = _sources(spec, n_rows)
        digest = dataset_digest(spec.dataset_name, spec.train_data_split)
        name = fingerprint(spec, n_rows, digest)
        place = layout.data_dir(name)
        rows = _readable(place)
        if rows is None:
            _write(place, spec, n_rows, progress, digest)
            rows = TokenRows.open(place)
        return cls(name, rows.n_rows, rows.n_ctx, sources)

    def are_of(self, spec: DataSpec, n_rows: int | None) -> bool:
        """Whether `prepare` would return these rows.

        Raises:
            HarvestError: the dataset or the tokenizer is missing.
        """
        if self.sources is not None and self.sources == _sources(spec, n_rows):
            return True
        return fingerprint(spec, n_rows) == self.fingerprint

    @property
    def directory(self) -> Path:
        """Where the rows are stored."""
        return layout.data_dir(self.fingerprint)

    def rows(self) -> TokenRows:
        """The rows, memory-mapped."""
        return TokenRows.open(self.directory)

    def write(self, directory: Path) -> None:
        """Write `token_rows.json` into a directory."""
        _RECORD.write(layout.HarvestLayout(directory).token_rows, self)

    @classmethod
    def open(cls, directory: Path) -> SharedTokenRows:
        """Read `token_rows.json`.

        Raises:
            HarvestError: it is missing, damaged, or of another version.
        """
        return _RECORD.read(layout.HarvestLayout(directory).token_rows)


_RECORD = Record(
    SharedTokenRows,
    "the name of a folder of token rows",
    remedy="materialize token_rows again",
    older=Older(),
)


def _sources(spec: DataSpec, n_rows: int | None) -> str | None:
    """A digest of what determines the rows and of the stamps of all local files that may.

    None if there are no stamps that can be relied on: the data are not local, a folder holds a link
    to another one, or a file was changed just now.
    """
    files: list[Path] = []
    for name in (spec.dataset_name, *(() if spec.is_tokenized else (spec.tokenizer_name,))):
        place = Path(name).absolute()
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        if not place.exists() or any(path.is_symlink() and path.is_dir() for path in found):
            return None
        files += [path for path in found if path.is_file()]
    stamps = stamps_of(files) if files else None
    if stamps is None:
        return None
    known = [asdict(spec), n_rows, FORMAT_VERSION, STREAM_ORDER_VERSION]
    text = json.dumps(
        [*known, [(str(file), stamp) for file, stamp in zip(files, stamps, strict=True)]]
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _readable(place: Path) -> TokenRows | None:
    """Rows that were written before; None if they, or the dataset's files they index, are gone."""
    try:
        return TokenRows.open(place)
    except HarvestError:
        return None


def _write(
    place: Path,
    spec: DataSpec,
    n_rows: int | None,
    progress: Callable[[int, int | None], None] | None,
    digest: str,
) -> None:
    sweep(place.parent)
    staging = temporary_beside(place)
    staging.mkdir(parents=True)
    try:
        write_token_rows(spec, staging, n_rows, progress, digest)
        if fingerprint(spec, n_rows, digest) != place.name:
            raise TransientError(
                f"The tokenizer {spec.tokenizer_name!r} changed while it was used; start again."
            )
        for file in staging.iterdir():
            fsync_path(file)
        fsync_path(staging)
        # Fails if another process was faster; its rows are the same.
        if _readable(place) is None:
            remove(place)
            staging.rename(place)
            fsync_path(place.parent)
    except OSError:
        if _readable(place) is None:
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
