"""The rows of tokens of a harvest: made once for equal data, shared by all harvests of it."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harvest_assets.data.data import DataSpec, TokenRows, fingerprint, write_token_rows
from harvest_assets.data.dataset import dataset_digest
from harvest_assets.errors import HarvestError, TransientError
from harvest_assets.files import layout
from harvest_assets.files.atomic import fsync_path, remove, sweep, temporary_beside, write_json
from harvest_assets.files.untrusted import as_record, read_json

_FINGERPRINT = re.compile(r"[0-9A-Za-z]{1,128}")


@dataclass(frozen=True)
class SharedTokenRows:
    """Rows that lie in `data/<fingerprint>/`.

    Args:
        fingerprint: of dataset, tokenizer, length and order.
        n_rows: rows there are.
        n_ctx: tokens of a row.
    """

    fingerprint: str
    n_rows: int
    n_ctx: int

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
            n_rows: how many are wanted at most; None is all. Only a stream is cut by it.
            progress: told how many of how many dataset rows are done.

        Raises:
            HarvestError: dataset or tokenizer are not there, or do not fit.
            TransientError: one of them changed while it was read.
        """
        digest = dataset_digest(spec.dataset_name, spec.train_data_split)
        name = fingerprint(spec, n_rows, digest)
        place = layout.data_dir(name)
        rows = _readable(place)
        if rows is None:
            _write(place, spec, n_rows, progress, digest)
            rows = TokenRows.open(place)
        return cls(name, rows.n_rows, rows.n_ctx)

    @property
    def directory(self) -> Path:
        """Where the rows lie."""
        return layout.data_dir(self.fingerprint)

    def rows(self) -> TokenRows:
        """The rows, memory-mapped."""
        return TokenRows.open(self.directory)

    def write(self, directory: Path) -> None:
        """Write `token_rows.json` into a directory."""
        write_json(layout.HarvestLayout(directory).token_rows, dataclasses.asdict(self))

    @classmethod
    def open(cls, directory: Path) -> SharedTokenRows:
        """Read `token_rows.json`.

        Raises:
            HarvestError: it is not what `write` writes.
        """
        path = layout.HarvestLayout(directory).token_rows
        try:
            value = as_record(read_json(path), cls)
        except (OSError, ValueError) as error:
            raise HarvestError(
                f"{path} does not tell where the token rows are: {error}."
            ) from error
        if not _FINGERPRINT.fullmatch(value.fingerprint) or min(value.n_rows, value.n_ctx - 1) < 0:
            raise HarvestError(
                f"{path} names no folder of token rows: {value.fingerprint[:200]!r}."
            )
        return value


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
