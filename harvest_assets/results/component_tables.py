"""The Parquet tables beside `components.jsonl`: index, example positions, highest examples."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

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
_PLACE = [
    ("flat_index", pa.int32()),
    ("rank", pa.int32()),  # place in the line, or in falling CI or activation
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
_VALUES_PER_GROUP = 1 << 18
WRITTEN: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


class _TableWriter:
    """Rows in, row groups out.

    Args:
        path: of the file.
        schema: of its columns.
        row_values: values in a row; a reader of one component decodes whole row groups.
    """

    def __init__(self, path: Path, schema: pa.Schema, row_values: int) -> None:
        self.file = HashedFile(path)
        self.writer = pq.ParquetWriter(self.file, schema, **WRITTEN)
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


def metadata_of(lines: FileDigest) -> dict[bytes, bytes]:
    """The metadata of a table, with size and digest of the lines that it belongs to."""
    return {_SIZE_KEY: str(lines.size).encode(), _DIGEST_KEY: lines.sha256.encode()}


def lines_of(metadata: dict[bytes, bytes] | None) -> tuple[bytes | None, bytes | None]:
    """Size and digest of the lines that a table belongs to, by its metadata."""
    metadata = metadata or {}
    return metadata.get(_SIZE_KEY), metadata.get(_DIGEST_KEY)


class ComponentTables:
    """Writes the tables side by side, in flat order.

    Args:
        paths: of the harvest.
    """

    def __init__(self, paths: HarvestLayout) -> None:
        self._lines: dict[bytes, bytes] = {}
        self._index_columns: list[list[Any]] = [[] for _ in INDEX_SCHEMA]
        self._paths = paths
        self._positions = _TableWriter(paths.example_positions, POSITIONS_SCHEMA, 4)
        self._highest_ci = _TableWriter(paths.highest_ci_examples, HIGHEST_SCHEMA, 64)
        # Begun with the first component that has such a list.
        self._highest_activation: _TableWriter | None = None
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
            for table in self._example_tables:
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
        self._highest_ci.add(self._windows(component.highest_ci))
        if component.highest_activation is not None:
            if self._highest_activation is None:
                path = self._paths.highest_activation_examples
                self._highest_activation = _TableWriter(path, HIGHEST_SCHEMA, 64)
            self._highest_activation.add(self._windows(component.highest_activation))
        self._flat_index += 1

    @property
    def digests(self) -> dict[Path, FileDigest]:
        """The digests of the tables of examples, once they are complete."""
        return {table.file.path: table.file.digest for table in self._example_tables}

    @property
    def _example_tables(self) -> list[_TableWriter]:
        tables = (self._positions, self._highest_ci, self._highest_activation)
        return [table for table in tables if table is not None]

    def set_lines(self, lines: FileDigest) -> None:
        """Set size and digest of the `components.jsonl` that the tables belong to."""
        self._lines = metadata_of(lines)

    def _places(self, examples: ExampleTable) -> list[Any]:
        n = len(examples.row)
        rows, positions = examples.row.numpy(), examples.position.numpy()
        flat_index = np.full(n, self._flat_index, dtype=np.int32)
        return [flat_index, np.arange(n, dtype=np.int32), rows, positions]

    def _windows(self, examples: ExampleTable) -> list[Any]:
        windows = (examples.token_ids, examples.ci_values, examples.component_acts)
        return [*self._places(examples), *(values.numpy() for values in windows)]

    def _write_index(self) -> None:
        arrays = [
            pa.array(column, type=field.type)
            for column, field in zip(self._index_columns, INDEX_SCHEMA, strict=True)
        ]
        table = pa.Table.from_arrays(arrays, schema=INDEX_SCHEMA)
        table = table.replace_schema_metadata(self._lines)
        pq.write_table(table, self._paths.component_index, **WRITTEN)
