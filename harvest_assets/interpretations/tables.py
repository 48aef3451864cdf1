"""The three tables that files of entries are folded into: `labels`, `scores`, `edits`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.untrusted import parse_json
from harvest_assets.interpretations.entries import JOINERS, MAX_NOTE, Edit
from harvest_assets.results.parquet import read_table

_VERSION = 1
_VERSION_KEY = b"interpretations_version"
_TIME = pa.timestamp("us", tz="UTC")
_FIRST = [("entry_id", pa.string()), ("component_key", pa.string()), ("checkpoint", pa.string())]
SCHEMAS: dict[str, pa.Schema] = {
    "labels": pa.schema(
        [
            *_FIRST,
            ("label", pa.string()),
            ("confidence", pa.float64()),
            ("reason", pa.string()),
            ("source", pa.string()),
            ("author", pa.string()),
            ("prompt_sha256", pa.string()),
            ("written_at", _TIME),
        ]
    ),
    "scores": pa.schema(
        [
            *_FIRST,
            ("method", pa.string()),
            ("score", pa.float64()),
            ("low", pa.float64()),
            ("high", pa.float64()),
            ("chance", pa.float64()),
            ("n_trials", pa.int64()),
            ("n_failed", pa.int64()),
            ("author", pa.string()),
            ("prompt_sha256", pa.string()),
            ("label_sha256", pa.string()),
            ("written_at", _TIME),
        ]
    ),
    "edits": pa.schema(
        [
            *_FIRST,
            ("field", pa.string()),
            ("value", pa.string()),  # as JSON
            ("author", pa.string()),
            ("written_at", _TIME),
        ]
    ),
}
_MAY_BE_NULL = {"confidence", "prompt_sha256", "label_sha256", "low", "high", "chance", "n_trials"}
_MAY_BE_NULL |= {"checkpoint"}
# A character may take two in JSON.
_MAX_CHARACTERS = 2 * MAX_NOTE + 2
_CONTROL = r"[\x00-\x09\x0b-\x1f\x7f-\x9f\p{Cf}\p{Zl}\p{Zp}]"  # as `plain_text` writes out
_NOT_A_METHOD = r"[^a-z0-9_]|^[^a-z]|^.{41}"


def of_rows(kind: str, rows: list[dict[str, Any]]) -> pa.Table:
    """A table of rows, given as mappings."""
    return pa.Table.from_pylist(rows, schema=SCHEMAS[kind])


def write(path: Path, table: pa.Table) -> None:
    """Write a table into a file."""
    marked = table.replace_schema_metadata({_VERSION_KEY: str(_VERSION)})
    # Stronger compression could look like a file that claims more than it can hold.
    pq.write_table(marked, path, compression="snappy", write_page_checksum=True)


def read(path: Path, kind: str) -> pa.Table:
    """The table in a file.

    Raises:
        FileNotFoundError: there is none.
        HarvestError: the file is damaged, of another version, or another table.
    """
    table = read_table(path)
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"none").decode(errors="replace")
    if version != str(_VERSION):
        raise HarvestError(
            f"{path} has the version {version[:20]}; this program reads {_VERSION}. "
            "Install a version of harvest_assets that reads it."
        )
    if table.column_names != SCHEMAS[kind].names or table.schema.types != SCHEMAS[kind].types:
        raise HarvestError(f"{path} is not a table of {kind}: its columns are others.")
    try:
        for name in table.column_names:
            _check_column(name, table[name])
        if kind == "edits":
            _check_edits(table)
    except (HarvestError, ValueError, RecursionError) as error:
        raise HarvestError(f"{path} is damaged: {reason_of(error)}.") from error
    # Without the metadata of columns: Polars panics where it is not UTF-8.
    return pa.Table.from_arrays(table.columns, schema=SCHEMAS[kind])


def _check_column(name: str, column: pa.ChunkedArray) -> None:
    if column.null_count and name not in _MAY_BE_NULL:
        raise ValueError(f"a value of {name} is missing")
    if column.type != pa.string() or len(column) == 0:
        return
    longest = pc.max(pc.utf8_length(column)).as_py() or 0
    without_joiners = pc.replace_substring_regex(column, f"[{JOINERS}]", "")
    if longest > _MAX_CHARACTERS or _any_matches(without_joiners, _CONTROL):
        raise ValueError(f"{name} has a text that is too long or cannot be printed")
    if name == "method" and _any_matches(column, _NOT_A_METHOD):
        raise ValueError("a method of scoring has an invalid name")


def _any_matches(column: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(column, pattern)).as_py())


def _check_edits(table: pa.Table) -> None:
    """Check the values, whose types depend on the fields."""
    for row in table.drop_columns(["entry_id", "checkpoint"]).to_pylist():
        Edit(**{**row, "value": parse_json(row["value"].encode())})
