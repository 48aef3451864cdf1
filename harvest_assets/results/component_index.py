"""The index of components, and the rows of one component in the tables beside it."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import file_version
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.results.component_tables import INDEX_SCHEMA, lines_of
from harvest_assets.results.parquet import DAMAGED, check_claims, read_columns

_NEVER_NULL = ("component_key", "layer", "component_idx", "flat_index", "firing_count", "mean_ci")
# The last columns, which older indices do not have; they are read as null.
_N_NEWER = 3
_ENTRY = ["component_key", "flat_index", "offset", "length"]
_ENTRY_SCHEMA = pa.schema([INDEX_SCHEMA.field(name) for name in _ENTRY])


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
        except DAMAGED:
            return None
        fits = entries is not None and cls(entries).lines[0] == str(size).encode()
        return cls(entries) if fits and entries is not None else None

    @property
    def lines(self) -> tuple[bytes | None, bytes | None]:
        """Size and digest of the file that the index belongs to."""
        return lines_of(self._entries.schema.metadata)

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
    table = read_columns(path, _ENTRY)
    if table.column_names != _ENTRY or table.schema.types != _ENTRY_SCHEMA.types:
        return None
    return table


def read_index(paths: HarvestLayout) -> pa.Table:
    """All columns of the index.

    Raises:
        HarvestError: the file is damaged.
    """
    try:
        table = read_columns(paths.component_index)
        for field in list(INDEX_SCHEMA)[table.num_columns :][-_N_NEWER:]:
            table = table.append_column(field, pa.nulls(len(table), field.type))
        table = table.cast(INDEX_SCHEMA)
        _check_index(table)
        return table
    except DAMAGED as error:
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
            if lines_of(file.metadata.metadata) != index.lines:
                return None
            check_claims(file, path.stat().st_size)
            return cls(file, schema)
        except DAMAGED:
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
        except DAMAGED:
            return None
        rows = table.to_pylist()
        if any(value is None for row in rows for value in row.values()):
            return None
        return sorted(rows, key=lambda row: row["rank"])

    def groups(self) -> Iterator[pa.Table]:
        """All rows, one row group after the other.

        Raises:
            HarvestError: they are damaged.
        """
        for group in range(self._file.num_row_groups):
            try:
                with self._lock:
                    table = self._file.read_row_group(group, use_threads=False)
                table = table.cast(self._schema)
                if any(column.null_count for column in table.columns):
                    raise ValueError("a value is missing")
            except DAMAGED as error:
                raise HarvestError(
                    f"A table of examples is damaged: {reason_of(error)}."
                ) from error
            yield table

    def _ends(self, group: int) -> tuple[int, int]:
        """The lowest and the highest component of a row group, read from its rows."""
        if group not in self._known_ends:
            table = self._file.read_row_group(group, columns=["flat_index"], use_threads=False)
            column = table.column(0)
            self._known_ends[group] = (column[0].as_py(), column[-1].as_py())
        return self._known_ends[group]
