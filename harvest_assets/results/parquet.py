"""Parquet tables that anybody may have written or damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harvest_assets.errors import HarvestError, reason_of

# What pyarrow raises for damaged files, depending on which bytes are damaged.
DAMAGED = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RuntimeError,
    pa.ArrowException,
)
# Compression ratio accepted in a file, in values per byte, and values beyond it. The 64 values of
# a histogram take at least ten bytes.
_MAX_VALUES_PER_BYTE, _MAX_FURTHER_VALUES = 64, 1 << 20
_CLAIMS = ("num_rows", "total_byte_size")


def read_columns(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A table, or some columns of it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it claims more values than its size allows.
        pyarrow.ArrowException: it is damaged.
    """
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        check_claims(file, path.stat().st_size)
        return file.read(columns=columns, use_threads=False)


def read_table(path: Path) -> pa.Table:
    """A table of any columns, whoever wrote it; its texts are valid UTF-8.

    Raises:
        FileNotFoundError: there is none.
        HarvestError: the file is damaged.
    """
    try:
        table = read_columns(path)
        table.validate(full=True)
        return table
    except FileNotFoundError:
        raise
    except DAMAGED as error:
        raise HarvestError(f"{path} is damaged: {reason_of(error)}.") from error


def check_claims(file: pq.ParquetFile, size: int) -> None:
    """Check that a file does not claim to hold more than its bytes can.

    The columns of row groups are not inspected: pyarrow ends the process if these are damaged.
    """
    groups = [file.metadata.row_group(g) for g in range(file.num_row_groups)]
    rows, n_bytes = ([getattr(group, name) for group in groups] for name in _CLAIMS)
    values = sum(rows) * file.metadata.num_columns
    limit = _MAX_VALUES_PER_BYTE * size + _MAX_FURTHER_VALUES
    if min([*rows, *n_bytes], default=0) < 0 or values > limit or sum(n_bytes) > 8 * limit:
        raise ValueError(f"it claims {values:,} values of {sum(n_bytes):,} bytes in {size:,}")


def row_groups(path: Path) -> Iterator[pa.Table]:
    """The row groups of a table, one after another; first an empty one, for the schema.

    Raises:
        HarvestError: the file is damaged.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            check_claims(file, path.stat().st_size)
            yield file.schema_arrow.empty_table()
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, use_threads=False)
    except DAMAGED as error:
        raise HarvestError(f"{path} is damaged: {reason_of(error)}.") from error
