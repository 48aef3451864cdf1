"""The Parquet tables beside `components.jsonl`: index, example positions, highest-CI examples."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import file_version
from harvest_assets.files.hashed_file import HashedFile
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.records import FileDigest

if TYPE_CHECKING:
    from types import TracebackType

    from harvest_assets.harvester.reservoir import ExampleTable
    from harvest_assets.results.contexts import HarvestedComponent

INDEX_SCHEMA = pa.schema(
    [
        ("component_key", pa.string()),
        ("layer", pa.string()),
        ("component_idx", pa.int32()),
        ("flat_index", pa.int32()),
        ("firing_count", pa.int64()),
        ("mean_ci", pa.float64()),
        ("ci_histogram", pa.list_(pa.int64())),
        ("offset", pa.int64()),  # of its line, null for a component that never fired
        ("length", pa.int64()),
        ("telling", pa.float64()),
        ("telling_input_tokens", pa.list_(pa.int32())),
        ("telling_output_tokens", pa.list_(pa.int32())),
    ]
)
_NEVER_NULL = ("component_key", "layer", "component_idx", "flat_index", "firing_count", "mean_ci")
# The last columns, which older indices do not have; they are read as null.
_N_NEWER = 3
_PLACE = [
    ("flat_index", pa.int32()),
    ("rank", pa.int32()),  # place in the line, or in falling CI
    ("row", pa.int64()),
    ("position", pa.int32()),
]
POSITIONS_SCHEMA = pa.schema(_PLACE)
HIGHEST_SCHEMA = pa.schema(
    [
        *_PLACE,
        ("token_ids", pa.list_(pa.int32())),
        ("ci_values", pa.list_(pa.float32())),
        ("component_acts", pa.list_(pa.float32())),
    ]
)

# Size and digest of the `components.jsonl` that a table belongs to.
_SIZE_KEY = b"components_size"
_DIGEST_KEY = b"components_sha256"
_ENTRY = ["component_key", "flat_index", "offset", "length"]
_ENTRY_SCHEMA = pa.schema([INDEX_SCHEMA.field(name) for name in _ENTRY])
_VALUES_PER_GROUP = 1 << 18
# What pyarrow raises for damaged files, depending on which bytes are damaged.
_DAMAGED = (
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
_WRITTEN: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


class _TableWriter:
    """Rows in, row groups out.

    Args:
        path: of the file.
        schema: of its columns.
        row_values: values in a row; a reader of one component decodes whole row groups.
    """

    def __init__(self, path: Path, schema: pa.Schema, row_values: int) -> None:
        self.file = HashedFile(path)
        self.writer = pq.ParquetWriter(self.file, schema, **_WRITTEN)
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0
        self._rows_per_group = _VALUES_PER_GROUP // row_values

    def add(self, columns: list[Any]) -> None:
        """Add rows, given by columns; a column of lists is a matrix."""
        arrays = [
            _column(column, field.type)
            for column, field in zip(columns, self.writer.schema, strict=True)
        ]
        self._batches.append(pa.record_batch(arrays, schema=self.writer.schema))
        self._rows += len(arrays[0])
        if self._rows >= self._rows_per_group:
            self.flush()

    def flush(self) -> None:
        """Write the pending rows as a row group."""
        if self._rows:
            self.writer.write_table(pa.Table.from_batches(self._batches))
        self._batches, self._rows = [], 0


def _column(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """The values as a column; each row of a matrix as a list."""
    if not pa.types.is_list(kind):
        return pa.array(values, type=kind)
    n, width = values.shape
    ends = np.arange(0, n * width + 1, width, dtype=np.int32)
    return pa.ListArray.from_arrays(ends, pa.array(values.ravel(), type=kind.value_type))


class ComponentTables:
    """Writes the three tables side by side, in flat order.

    Args:
        paths: of the harvest.
    """

    def __init__(self, paths: HarvestLayout) -> None:
        self._lines: dict[bytes, bytes] = {}
        self._index_columns: list[list[Any]] = [[] for _ in INDEX_SCHEMA]
        self._paths = paths
        self._positions = _TableWriter(paths.example_positions, POSITIONS_SCHEMA, 4)
        self._highest = _TableWriter(paths.highest_ci_examples, HIGHEST_SCHEMA, 64)
        self._flat_index = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with ExitStack() as stack:
            for table in (self._positions, self._highest):
                stack.callback(table.file.close)
                stack.callback(table.writer.close)
                table.flush()
                table.writer.add_key_value_metadata(self._lines)
        if error is None:
            self._write_index()

    def add(self, component: HarvestedComponent, offset: int, length: int) -> None:
        """Add the next component; `length` is 0 if it has no line."""
        # In the order of INDEX_SCHEMA, whose column names are those on disk.
        values = [
            component.key,
            component.layer,
            component.component_idx,
            self._flat_index,
            component.firing_count,
            component.mean_ci,
            component.ci_histogram,
            offset if length else None,
            length or None,
            component.informativeness,
            component.informative_input_tokens,
            component.informative_output_tokens,
        ]
        for column, value in zip(self._index_columns, values, strict=True):
            column.append(value)
        self._positions.add(self._places(component.examples))
        highest = component.highest_ci
        windows = (highest.token_ids, highest.ci_values, highest.component_acts)
        matrices = [values.numpy() for values in windows]
        self._highest.add([*self._places(highest), *matrices])
        self._flat_index += 1

    @property
    def digests(self) -> dict[Path, FileDigest]:
        """The digests of the two tables of examples, once they are complete."""
        return {table.file.path: table.file.digest for table in (self._positions, self._highest)}

    def set_lines(self, lines: FileDigest) -> None:
        """Set size and digest of the `components.jsonl` that the tables belong to."""
        self._lines = {_SIZE_KEY: str(lines.size).encode(), _DIGEST_KEY: lines.sha256.encode()}

    def _places(self, examples: ExampleTable) -> list[Any]:
        n = len(examples.row)
        rows, positions = examples.row.numpy(), examples.position.numpy()
        flat_index = np.full(n, self._flat_index, dtype=np.int32)
        return [flat_index, np.arange(n, dtype=np.int32), rows, positions]

    def _write_index(self) -> None:
        arrays = [
            pa.array(column, type=field.type)
            for column, field in zip(self._index_columns, INDEX_SCHEMA, strict=True)
        ]
        table = pa.Table.from_arrays(arrays, schema=INDEX_SCHEMA)
        table = table.replace_schema_metadata(self._lines)
        pq.write_table(table, self._paths.component_index, **_WRITTEN)


class ComponentIndex:
    """The offsets of the lines of the `components.jsonl` in the same folder."""

    def __init__(self, entries: pa.Table) -> None:
        self._entries = entries

    @classmethod
    def open(cls, paths: HarvestLayout) -> Self | None:
        """The index, if it is undamaged and belongs to the `components.jsonl` beside it."""
        try:
            entries = _entries(paths.component_index, file_version(paths.component_index))
            size = paths.components.stat().st_size
        except _DAMAGED:
            return None
        fits = entries is not None and cls(entries).lines[0] == str(size).encode()
        return cls(entries) if fits and entries is not None else None

    @property
    def lines(self) -> tuple[bytes | None, bytes | None]:
        """Size and digest of the file that the index belongs to."""
        return _lines_of(self._entries.schema.metadata)

    @classmethod
    def of_lines(cls, places: list[tuple[str, int, int]]) -> Self:
        """An index from the key, offset and length of each line."""
        columns = [list(column) for column in zip(*places, strict=True)] or [[], [], []]
        keys, offsets, lengths = columns
        entries = [keys, list(range(len(keys))), offsets, lengths]
        return cls(pa.table(entries, schema=_ENTRY_SCHEMA))

    def line_place(self, component_key: str) -> tuple[int, int] | None:
        """Offset and length of a component's line; None if it has none."""
        entry = self._entry(component_key)
        if entry is None or entry["offset"] is None:
            return None
        return entry["offset"], entry["length"]

    def flat_index(self, component_key: str) -> int | None:
        """Place of a component in flat order."""
        entry = self._entry(component_key)
        return None if entry is None else entry["flat_index"]

    def _entry(self, component_key: str) -> dict[str, Any] | None:
        place = pc.index(self._entries["component_key"], component_key).as_py()
        return None if place < 0 else self._entries.slice(place, 1).to_pylist()[0]


@lru_cache(maxsize=8)
def _entries(path: Path, version: tuple[int, ...]) -> pa.Table | None:  # noqa: ARG001
    """The index at a path; None if the file is another table.

    Cached for callers that read many components; a new version of the file is read again.
    """
    table = _read(path, _ENTRY)
    if table.column_names != _ENTRY or table.schema.types != _ENTRY_SCHEMA.types:
        return None
    return table


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A table, or some columns of it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it claims more values than its size allows.
        pyarrow.ArrowException: it is damaged.
    """
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        _check_claims(file, path.stat().st_size)
        return file.read(columns=columns, use_threads=False)


def read_table(path: Path) -> pa.Table:
    """A table of any columns, whoever wrote it; its texts are valid UTF-8.

    Raises:
        FileNotFoundError: there is none.
        HarvestError: the file is damaged.
    """
    try:
        table = _read(path)
        table.validate(full=True)
        return table
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        raise HarvestError(f"{path} is damaged: {reason_of(error)}.") from error


def _check_claims(file: pq.ParquetFile, size: int) -> None:
    """Check that a file does not claim to hold more than its bytes can.

    The columns of row groups are not inspected: pyarrow ends the process if these are damaged.
    """
    groups = [file.metadata.row_group(g) for g in range(file.num_row_groups)]
    rows, n_bytes = ([getattr(group, name) for group in groups] for name in _CLAIMS)
    values = sum(rows) * file.metadata.num_columns
    limit = _MAX_VALUES_PER_BYTE * size + _MAX_FURTHER_VALUES
    if min([*rows, *n_bytes], default=0) < 0 or values > limit or sum(n_bytes) > 8 * limit:
        raise ValueError(f"it claims {values:,} values of {sum(n_bytes):,} bytes in {size:,}")


def read_index(paths: HarvestLayout) -> pa.Table:
    """All columns of the index.

    Raises:
        HarvestError: the file is damaged.
    """
    try:
        table = _read(paths.component_index)
        for field in list(INDEX_SCHEMA)[table.num_columns :][-_N_NEWER:]:
            table = table.append_column(field, pa.nulls(len(table), field.type))
        table = table.cast(INDEX_SCHEMA)
        _check_index(table)
        return table
    except _DAMAGED as error:
        raise HarvestError(f"{paths.component_index} is damaged: {reason_of(error)}.") from error


def _check_index(table: pa.Table) -> None:
    """Check that each component is listed once, in flat order, with its counts."""
    if any(table[name].null_count for name in _NEVER_NULL):
        raise ValueError("a component lacks a value")
    # `to_numpy` would import pandas.
    in_order = table["flat_index"].to_pylist() == list(range(len(table)))
    if not in_order or pc.count_distinct(table["component_key"]).as_py() != len(table):
        raise ValueError("its components are not listed once each, in flat order")
    if len(table) and pc.min(table["firing_count"]).as_py() < 0:
        raise ValueError("a firing count is negative")


class ComponentRows:
    """The rows of one component at a time, of a table that is sorted by `flat_index`."""

    def __init__(self, file: pq.ParquetFile, schema: pa.Schema) -> None:
        self._file = file
        self._schema = schema
        self._lock = threading.Lock()
        if file.schema_arrow.names != schema.names:
            raise ValueError(f"it has the columns {file.schema_arrow.names}")
        self._known_ends: dict[int, tuple[int, int]] = {}

    @classmethod
    def open(cls, path: Path, schema: pa.Schema, index: ComponentIndex | None) -> Self | None:
        """The table, if it is undamaged and belongs to the same lines as the index.

        Files are replaced one by one, so that a table may belong to other lines.
        """
        try:
            if index is None or None in index.lines:
                return None
            file = pq.ParquetFile(path, page_checksum_verification=True)
            if _lines_of(file.metadata.metadata) != index.lines:
                return None
            _check_claims(file, path.stat().st_size)
            return cls(file, schema)
        except _DAMAGED:
            return None

    def of(self, flat_index: int) -> list[dict[str, Any]] | None:
        """The rows of a component by rising rank; None where they are damaged."""
        groups = range(self._file.num_row_groups)
        try:
            with self._lock:
                first = bisect_left(groups, flat_index, key=lambda g: self._ends(g)[1])
                stop = bisect_right(groups, flat_index, key=lambda g: self._ends(g)[0])
                table = self._file.read_row_groups(list(range(first, stop)), use_threads=False)
            table = table.filter(pc.equal(table["flat_index"], flat_index)).cast(self._schema)
        except _DAMAGED:
            return None
        rows = table.to_pylist()
        if any(value is None for row in rows for value in row.values()):
            return None
        return sorted(rows, key=lambda row: row["rank"])

    def _ends(self, group: int) -> tuple[int, int]:
        """The lowest and the highest component of a row group, read from its rows."""
        if group not in self._known_ends:
            table = self._file.read_row_group(group, columns=["flat_index"], use_threads=False)
            column = table.column(0)
            self._known_ends[group] = (column[0].as_py(), column[-1].as_py())
        return self._known_ends[group]


def _lines_of(metadata: dict[bytes, bytes] | None) -> tuple[bytes | None, bytes | None]:
    metadata = metadata or {}
    return metadata.get(_SIZE_KEY), metadata.get(_DIGEST_KEY)
