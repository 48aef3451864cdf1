"""Rows of token ids on disk, in harvest order: memory-mapped, read in any order.

`rows.json` says where they are stored: Arrow files with one column of lists of `n_ctx` ids, which
may be a dataset's own files elsewhere, and `order.npy`, the place in those files of each row of the
harvest (absent where it is the order of the files).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.records import Older, Record

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1  # of the rows, and so part of their fingerprint; `rows.json` has its own
_MAX_BYTES = 64 << 20  # a dataset may have very many files
MANIFEST = "rows.json"
ORDER = "order.npy"
TOKENS = "tokens.arrow"
TOKENS_COLUMN = "tokens"


@dataclass(frozen=True)
class ArrowRows:
    """One Arrow file that holds rows.

    Args:
        path: absolute, or relative to the folder of `rows.json`.
        form: `file` for Arrow IPC files, `stream` for the streams that `datasets` keeps.
        column: the column of lists of ids.
        n_rows: how many rows the file has.
        size: of the file, in bytes.
        modified: modification time in nanoseconds of a file that is not ours, which its owner may
            replace; None for others.
    """

    path: str
    form: Literal["file", "stream"]
    column: str
    n_rows: int
    size: int
    modified: int | None = None


@dataclass(frozen=True)
class _Manifest:
    """What `rows.json` holds."""

    n_rows: Annotated[int, Field(ge=0)]
    n_ctx: Annotated[int, Field(ge=1)]
    order: str | None
    spec: dict[str, Any]
    files: tuple[ArrowRows, ...]


def _of_known_order(fields: dict[str, Any]) -> dict[str, Any]:
    spec = fields.get("spec")
    if isinstance(spec, dict) and spec.get("streaming"):
        raise ValueError(
            "its rows are of a stream, in the order of version 0.1, which training did not have"
        )
    return fields


_RECORD = Record(
    _Manifest,
    "the description of token rows",
    version=2,
    remedy="materialize token_rows again",
    max_bytes=_MAX_BYTES,
    older=Older(version=1, upgrade=_of_known_order),
)


def write_tokens(
    directory: Path, blocks: Iterable[NDArray[Any]], n_ctx: int, limit: int | None
) -> ArrowRows:
    """Write rows into an Arrow file of int32 lists, one record batch a block.

    Args:
        directory: where to.
        blocks: integers [n, n_ctx] each; read no further than needed.
        n_ctx: the length of a row, in tokens.
        limit: rows to write at most, None for all.
    """
    path = directory / TOKENS
    schema = pa.schema([(TOKENS_COLUMN, pa.list_(pa.int32(), n_ctx))])
    n_rows = 0
    with path.open("wb") as file:
        with pa.ipc.new_file(file, schema) as writer:
            for block in blocks:
                kept = block if limit is None else block[: limit - n_rows]
                if len(kept):
                    ids = pa.array(kept.reshape(-1), type=pa.int32())
                    lists = pa.FixedSizeListArray.from_arrays(ids, n_ctx)
                    writer.write_batch(pa.record_batch([lists], schema=schema))
                n_rows += len(kept)
                if limit is not None and n_rows >= limit:
                    break
        file.flush()
        os.fsync(file.fileno())
    return ArrowRows(TOKENS, "file", TOKENS_COLUMN, n_rows, path.stat().st_size)


def write_manifest(
    directory: Path,
    files: Sequence[ArrowRows],
    order: NDArray[np.int64] | None,
    n_ctx: int,
    spec: dict[str, Any],
) -> None:
    """Write `order.npy` and, last, `rows.json`.

    Args:
        directory: where to.
        files: where the rows are stored, in order.
        order: [n_rows] place of each harvested row in the concatenated files; None for theirs.
        n_ctx: the length of a row, in tokens.
        spec: what determines the rows, kept for people.
    """
    if order is not None:
        with (directory / ORDER).open("wb") as file:
            np.save(file, order)
            file.flush()
            os.fsync(file.fileno())
    n_rows = sum(file.n_rows for file in files)
    order_name = None if order is None else ORDER
    _RECORD.write(directory / MANIFEST, _Manifest(n_rows, n_ctx, order_name, spec, tuple(files)))


def check_order(directory: Path) -> None:
    """Check that rows, if they are still there, are in the order of training.

    Raises:
        HarvestError: they are of a stream and version 0.1 wrote them, or `rows.json` is damaged.
    """
    if (directory / MANIFEST).exists():
        _RECORD.read(directory / MANIFEST)


class TokenRows:
    """The rows of a harvest, opened; make one with `TokenRows.open`.

    Attributes:
        n_rows: how many rows there are.
        n_ctx: tokens in a row.
    """

    def __init__(
        self, blocks: Sequence[NDArray[Any]], order: NDArray[np.int64] | None, n_ctx: int
    ) -> None:
        self._blocks = blocks
        self._order = order
        self._starts = np.cumsum([0, *(len(block) for block in blocks)], dtype=np.int64)
        self.n_rows = int(self._starts[-1])
        self.n_ctx = n_ctx

    @classmethod
    def open(cls, directory: Path) -> TokenRows:
        """Map the rows that `write_token_rows` left in this directory.

        Raises:
            HarvestError: a file is missing, damaged, or not the one that was written.
        """
        path = directory / MANIFEST
        manifest = _RECORD.read(path)
        n_rows, n_ctx = manifest.n_rows, manifest.n_ctx
        blocks = [block for file in manifest.files for block in _map_file(directory, file, n_ctx)]
        if sum(map(len, blocks)) != n_rows:
            raise _damaged(path, f"the files it names do not hold {n_rows} rows")
        order = None if manifest.order is None else _map_order(directory / ORDER, n_rows)
        return cls(blocks, order, n_ctx)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows `start` to `stop` (not included) of the harvest.

        Returns:
            int64 [stop - start, n_ctx], a copy.

        Raises:
            IndexError: unless 0 <= start <= stop <= n_rows.
        """
        import torch

        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(
                f"rows {start} to {stop} are not all among the {self.n_rows} there are"
            )
        places = np.arange(start, stop) if self._order is None else self._order[start:stop]
        blocks = np.searchsorted(self._starts, places, side="right") - 1
        tokens = np.empty((stop - start, self.n_ctx), dtype=np.int64)
        for block in np.unique(blocks):
            here = blocks == block
            tokens[here] = self._blocks[block][places[here] - self._starts[block]]
        return torch.from_numpy(tokens)


def _map_file(directory: Path, file: ArrowRows, n_ctx: int) -> list[NDArray[Any]]:
    """The record batches of one file, each [n, n_ctx], not copied."""
    path = directory / file.path
    try:
        stat = path.stat()
        if stat.st_size != file.size:
            raise _damaged(path, f"its size is not the {file.size} bytes it was indexed with")
        if file.modified not in {None, stat.st_mtime_ns}:
            raise _damaged(path, "it was replaced or changed after its rows were indexed")
        source = pa.memory_map(str(path))
        opened = pa.ipc.open_file(source) if file.form == "file" else pa.ipc.open_stream(source)
        column = opened.read_all().column(file.column)
        column.validate(full=True)  # an offset outside the file would be followed
        blocks = [chunk_rows(chunk, n_ctx) for chunk in column.chunks if len(chunk)]
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise _damaged(path, reason_of(error)) from error
    if sum(map(len, blocks)) != file.n_rows:
        raise _damaged(path, f"it does not hold {file.n_rows} rows")
    return blocks


def is_token_lists(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of lists of integers."""
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    return is_list and bool(pa.types.is_integer(kind.value_type))


def chunk_rows(chunk: pa.Array, n_ctx: int) -> NDArray[Any]:
    """The first `n_ctx` ids of each list of an Arrow array: [len(chunk), n_ctx].

    Of lists of one length it is a view, of others a copy.

    Raises:
        ValueError: the array does not hold lists of at least `n_ctx` integers, or holds a null.
    """
    if not is_token_lists(chunk.type):
        raise ValueError(f"it holds {chunk.type} instead of lists of token ids")
    if chunk.null_count:
        raise ValueError("a row is null")
    lengths = list_lengths(chunk)
    if (lengths < n_ctx).any():
        raise ValueError(
            f"a row is {lengths[lengths < n_ctx][0]} tokens long; at least {n_ctx} are needed"
        )
    flat = chunk.flatten()
    if flat.null_count:
        raise ValueError("a token id is missing")
    ids = flat.to_numpy(zero_copy_only=True)
    if len(np.unique(lengths)) <= 1:
        width = int(lengths[0]) if len(chunk) else n_ctx
        rows: NDArray[Any] = ids.reshape(len(chunk), width)[:, :n_ctx]
        return rows
    starts = np.cumsum(lengths) - lengths
    cut: NDArray[Any] = ids[starts[:, None] + np.arange(n_ctx)]
    return cut


def list_lengths(chunk: pa.Array) -> NDArray[Any]:
    """Length of each list of an Arrow array of lists."""
    if pa.types.is_fixed_size_list(chunk.type):
        return np.full(len(chunk), chunk.type.list_size)
    return np.diff(chunk.offsets.to_numpy())


def _map_order(path: Path, n_rows: int) -> NDArray[np.int64]:
    try:
        order = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the reader of a damaged header raises what it runs into
        raise _damaged(path, reason_of(error)) from error
    if order.dtype != np.int64 or order.shape != (n_rows,):
        raise _damaged(path, f"it is not an int64 array of {n_rows} places")
    if n_rows and not (order.min() >= 0 and order.max() < n_rows):
        raise _damaged(path, "a place in it is outside the rows")
    mapped: NDArray[np.int64] = order
    return mapped


def _damaged(path: Path, reason: str) -> HarvestError:
    what = "is missing" if not path.exists() else f"is damaged: {reason}"
    return HarvestError(f"{path} {what}; materialize token_rows again.")
