"""The Parquet tables beside `components.jsonl`: index, example positions, highest-CI examples."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harvest_assets.layout import HarvestLayout

if TYPE_CHECKING:
    from types import TracebackType

    from harvest_assets.contexts import ExampleBlock, HarvestedComponent

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
    ]
)
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

# The size of the file that the index belongs to.
_SIZE_KEY = b"components_size"
_ROWS_PER_GROUP = 1 << 16


class _TableWriter:
    """Rows in, row groups out."""

    def __init__(self, path: Any, schema: pa.Schema) -> None:
        self.writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0

    def add(self, columns: list[Any]) -> None:
        """Add rows, given by columns."""
        arrays = [
            pa.array(column, type=field.type)
            for column, field in zip(columns, self.writer.schema, strict=True)
        ]
        self._batches.append(pa.record_batch(arrays, schema=self.writer.schema))
        self._rows += len(arrays[0])
        if self._rows >= _ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write what is there as a row group."""
        if self._rows:
            self.writer.write_table(pa.Table.from_batches(self._batches))
        self._batches, self._rows = [], 0


class ComponentTables:
    """Writes the three tables side by side, in flat order.

    Args:
        paths: of the harvest.
    """

    def __init__(self, paths: HarvestLayout) -> None:
        self.components_size = 0
        self._index_columns: list[list[Any]] = [[] for _ in INDEX_SCHEMA]
        self._paths = paths
        self._positions = _TableWriter(paths.example_positions, POSITIONS_SCHEMA)
        self._highest = _TableWriter(paths.highest_ci_examples, HIGHEST_SCHEMA)
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
                stack.callback(table.writer.close)
                table.flush()
        if error is None:
            self._write_index()

    def add(self, component: HarvestedComponent, offset: int, length: int) -> None:
        """Add the next component; `length` is 0 if it has no line."""
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
        ]
        for column, value in zip(self._index_columns, values, strict=True):
            column.append(value)
        self._positions.add(self._places(component.examples))
        highest = component.highest_ci
        windows = [highest.token_ids, highest.ci_values, highest.component_acts]
        self._highest.add([*self._places(highest), *map(list, windows)])
        self._flat_index += 1

    def _places(self, examples: ExampleBlock) -> list[Any]:
        n = len(examples.rows)
        return [np.full(n, self._flat_index), np.arange(n), examples.rows, examples.positions]

    def _write_index(self) -> None:
        arrays = [
            pa.array(column, type=field.type)
            for column, field in zip(self._index_columns, INDEX_SCHEMA, strict=True)
        ]
        table = pa.Table.from_arrays(arrays, schema=INDEX_SCHEMA)
        table = table.replace_schema_metadata({_SIZE_KEY: str(self.components_size)})
        pq.write_table(table, self._paths.component_index, compression="zstd")


def has_index(paths: HarvestLayout) -> bool:
    """Is there an index, and of the `components.jsonl` that lies there?"""
    try:
        metadata = pq.read_schema(paths.component_index).metadata or {}
        return int(metadata.get(_SIZE_KEY, b"-1")) == paths.components.stat().st_size
    except (OSError, ValueError):
        return False


def line_place(paths: HarvestLayout, component_key: str) -> tuple[int, int] | None:
    """Offset and length of a component's line; None without an index or without a line."""
    if not has_index(paths):
        return None
    table = pq.read_table(
        paths.component_index,
        columns=["offset", "length"],
        filters=[("component_key", "=", component_key)],
    )
    if len(table) != 1 or table["offset"][0].as_py() is None:
        return None
    return table["offset"][0].as_py(), table["length"][0].as_py()
