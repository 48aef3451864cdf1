"""Whether each data file of a dataset holds token ids by its own type.

`datasets` gives all files the type that the dataset card or the first file has: fractions, strings
and truth values of other files would become token ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harvest_assets.data.token_rows import is_token_lists
from harvest_assets.errors import HarvestError

_ROWS = 1000  # of a file without a schema


def check_token_types(name: str, builder: Any, files: Iterable[str], column: str) -> None:
    """Check that a column holds lists of integers in each data file, by the file's own type.

    A parquet file has its type in its schema; of another file, its first rows have it. A file that
    cannot be read passes, as does one without the column or without rows: its reader finds that.

    Args:
        name: of the local dataset.
        builder: of the dataset.
        files: to check.
        column: that holds the token ids.

    Raises:
        HarvestError: a file holds something else.
    """
    for file in files:
        kind = _type_of(builder, file, column)
        if kind is not None and not is_token_lists(kind):
            raise HarvestError(
                f"Column {column!r} of the dataset {name!r} should hold tokens, but it holds "
                f"{kind} instead of lists of token ids in the data file {file!r}; write that file "
                "with lists of integers."
            )


def _type_of(builder: Any, file: str, column: str) -> pa.DataType | None:
    """The type of a column in one file; None if the file does not show it."""
    try:
        schema = _schema(builder, file)
        kind = schema.field(column).type
    except Exception:  # noqa: BLE001 - readers of many formats: each raises what it likes
        return None
    is_unknown = pa.types.is_null(kind) or pa.types.is_null(getattr(kind, "value_type", kind))
    return None if is_unknown else kind


def _schema(builder: Any, file: str) -> pa.Schema:
    import datasets

    if builder.name == "parquet":
        return pq.read_schema(file)
    options = {"field": builder.config.field} if builder.name == "json" else {}
    stream = datasets.load_dataset(
        builder.name, data_files=file, split="train", streaming=True, **options
    )
    return next(stream.with_format("arrow").iter(batch_size=_ROWS)).schema
