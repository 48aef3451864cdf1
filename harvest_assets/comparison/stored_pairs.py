"""Pairs that were computed, kept beside the first harvest: `comparisons/<second>.parquet`.

The file names the results that it was made of, by digest, and counts only as long as both harvests
have them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

from harvest_assets.comparison.opened import identity_of
from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import atomic_path
from harvest_assets.files.untrusted import as_record, parse_json

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from harvest_assets.comparison.opened import OpenedHarvest

# Their types, as Polars names them.
COLUMNS = {
    "component_a": "String",
    "component_b": "String",
    "rank": "Int64",
    "n_a": "Int64",
    "n_b": "Int64",
    "n_ab": "Int64",
    "jaccard": "Float64",
    "precision": "Float64",
    "recall": "Float64",
    "mutual": "Boolean",
}
_NEVER_NULL = COLUMNS.keys() - {"component_b", "n_b", "recall"}

_VERSION = 1
_KEY = b"pairs"


@dataclass(frozen=True)
class PairsOf:
    """What pairs were counted over.

    Args:
        n_rows: rows, from the first on.
        n_tokens: positions of these rows.
        top: matches of each component at most.
        source: how the firings were found.
    """

    n_rows: int
    n_tokens: int
    top: int
    source: str


@dataclass(frozen=True)
class _Header:
    """What the file says of itself."""

    version: int
    identity_a: str
    identity_b: str
    n_rows: int
    n_tokens: int
    top: int
    source: str


def store(one: OpenedHarvest, other: OpenedHarvest, of: PairsOf, pairs: pl.DataFrame) -> None:
    """Keep pairs; those of before are replaced.

    Raises:
        HarvestError: a folder of the harvest is a link, or one of the two was harvested again
            after it was opened.
        OSError: the folder cannot be written.
    """
    import pyarrow.parquet as pq

    if one.identity is None or other.identity is None:
        return
    for harvest in (one, other):
        if identity_of(harvest.paths) != harvest.identity:
            raise HarvestError(f"{harvest.name} was harvested again meanwhile; compare again.")
    one.paths.check_links()
    header = _Header(_VERSION, one.identity, other.identity, **asdict(of))
    table = pairs.to_arrow().replace_schema_metadata({_KEY: json.dumps(asdict(header))})
    with atomic_path(_place(one, other)) as temporary:
        pq.write_table(table, temporary, compression="snappy", write_page_checksum=True)


def find(one: OpenedHarvest, other: OpenedHarvest) -> tuple[PairsOf, pl.DataFrame] | None:
    """The pairs that were kept; None if there are none of these results, or they are damaged."""
    import polars as pl
    import pyarrow as pa

    from harvest_assets.results.parquet import read_table

    path = _place(one, other)
    if not path.is_file():
        return None
    try:
        table = read_table(path)
        header = as_record(parse_json((table.schema.metadata or {})[_KEY]), _Header)
    except (HarvestError, OSError, ValueError, KeyError, RecursionError):
        return None
    identities = (header.identity_a, header.identity_b)
    if header.version != _VERSION or identities != (one.identity, other.identity):
        return None
    if table.column_names != list(COLUMNS) or min(header.n_rows, header.n_tokens, header.top) < 1:
        return None
    # Without the metadata of columns: Polars panics where it is not UTF-8.
    plain = pa.Table.from_arrays(table.columns, names=table.column_names)
    pairs = cast("pl.DataFrame", pl.from_arrow(plain))
    if not _are_plausible(pairs, one, other):
        return None
    return PairsOf(header.n_rows, header.n_tokens, header.top, header.source), pairs


def _are_plausible(pairs: pl.DataFrame, one: OpenedHarvest, other: OpenedHarvest) -> bool:
    """Whether all components are those of the harvests, and all numbers in their ranges."""
    import polars as pl

    types = {name: str(kind) for name, kind in pairs.schema.items()}
    if types != COLUMNS or any(pairs[name].null_count() for name in _NEVER_NULL):
        return False
    shares = pl.col("jaccard", "precision", "recall")  # NaN is above all numbers
    counts = pl.col("rank", "n_a", "n_b", "n_ab")
    numbers = pairs.select(shares.is_between(0, 1).all(), counts.ge(0).all())
    sides = (("component_a", one), ("component_b", other))
    return all(numbers.row(0)) and all(
        pairs[name].drop_nulls().is_in(harvest.frame["component_key"].implode()).all()
        for name, harvest in sides
    )


def _place(one: OpenedHarvest, other: OpenedHarvest) -> Path:
    return one.paths.comparisons / f"{other.name}.parquet"
