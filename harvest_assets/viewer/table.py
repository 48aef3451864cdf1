"""The table of components: what an address asks for, and the rows that answer it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray

from harvest_assets.errors import HarvestError

if TYPE_CHECKING:
    import polars as pl

    from harvest_assets.viewer.harvest import Harvest

PAGE_SIZE = 50
SORTS = ("telling", "density", "mean_ci", "layer", "reads", "predicts")
# Words and layers begin with the first, numbers with the highest.
_RISING = ("layer", "reads", "predicts")
_MOST_ORDERS = 64
_MAX_ID = (1 << 31) - 1  # a tokenizer may know ids that no harvest can hold


@dataclass(frozen=True)
class TableQuery:
    """Which components, in which order; every field is one of the address.

    Args:
        q: part of the component's key.
        token: part of a token that it tells of; in double quotes: the whole token.
        layer: its layer.
        min: least density.
        max: highest density.
        dead: those that never fired too.
        sort: one of `SORTS`; empty is the most telling first, where that is known.
        reverse: the other way round.
    """

    q: str = ""
    token: str = ""
    layer: str = ""
    min: float | None = None
    max: float | None = None
    dead: bool = False
    sort: str = ""
    reverse: bool = False

    @classmethod
    def of(cls, params: Mapping[str, str]) -> Self:
        """What the fields of an address ask for; what is no sort is none.

        Raises:
            HarvestError: a density is no number.
        """
        sort = params.get("sort", "")
        return cls(
            q=params.get("q", "").strip(),
            token=params.get("token", ""),
            layer=params.get("layer", ""),
            min=_number(params, "min"),
            max=_number(params, "max"),
            dead=params.get("dead") == "1",
            sort=sort if sort in SORTS else "",
            reverse=params.get("reverse") == "1",
        )

    def params(self, **changes: object) -> str:
        """As the query of an address; what is not set is left out."""
        fields = {**dataclasses.asdict(self), **changes}
        shown = {k: _text(v) for k, v in fields.items() if v not in ("", None, False)}
        return urlencode(shown)

    def sorted_by(self, harvest: Harvest) -> str:
        """The column that the rows are sorted by."""
        if self.sort in ("reads", "predicts", "telling", "") and not harvest.can_telling:
            return self.sort if self.sort in ("reads", "predicts") else "density"
        return self.sort or "telling"

    @property
    def filters(self) -> bool:
        """Does it leave any component out that fired?"""
        return bool(self.q or self.token or self.layer) or (self.min, self.max) != (None, None)


def order(harvest: Harvest, query: TableQuery) -> NDArray[np.int64]:
    """The places in `harvest.frame` of the components that a query asks for, in its order."""
    if query not in harvest.orders:
        while len(harvest.orders) >= _MOST_ORDERS:
            harvest.orders.pop(next(iter(harvest.orders)), None)
        harvest.orders[query] = _sorted(harvest, query, _filtered(harvest, query))
    return harvest.orders[query]


def neighbours(harvest: Harvest, query: TableQuery, place: int) -> tuple[int | None, int | None]:
    """The components before and behind one in the order of a table; of another: the first."""
    places = order(harvest, query)
    found = np.flatnonzero(places == place)
    if len(found) == 0:
        return None, (int(places[0]) if len(places) else None)
    i = int(found[0])
    before = int(places[i - 1]) if i else None
    behind = int(places[i + 1]) if i + 1 < len(places) else None
    return before, behind


def _filtered(harvest: Harvest, query: TableQuery) -> pl.DataFrame:
    import polars as pl

    rows = harvest.frame.with_row_index("place")
    tests = []
    if not query.dead:
        tests.append(pl.col("firing_count") > 0)
    if query.q:
        key = pl.col("component_key").str.to_lowercase()
        tests.append(key.str.contains(query.q.lower(), literal=True))
    if query.layer:
        tests.append(pl.col("layer") == query.layer)
    if query.min is not None:
        tests.append(pl.col("density") >= query.min)
    if query.max is not None:
        tests.append(pl.col("density") <= query.max)
    if query.token:
        found = [i for i in harvest.vocabulary.ids_with(query.token) if i <= _MAX_ID]
        ids = pl.Series(found, dtype=pl.Int32).implode()
        tests.append(
            pl.any_horizontal(
                pl.col(name).list.eval(pl.element().is_in(ids)).list.any()
                for name in ("reads", "predicts")
            )
        )
    return rows.filter(*tests)


def _sorted(harvest: Harvest, query: TableQuery, rows: pl.DataFrame) -> NDArray[np.int64]:
    import polars as pl

    column = query.sorted_by(harvest)
    if column == "layer":
        keys = pl.col("place")
    elif column in ("reads", "predicts"):
        first = [None if t is None else harvest.vocabulary.text(t) for t in _firsts(rows[column])]
        rows = rows.with_columns(pl.Series("first", first, dtype=pl.String).str.strip_chars_start())
        keys = pl.col("first")
    else:
        keys = pl.col(column)
    falling = (column not in _RISING) != query.reverse
    rows = rows.sort(keys, "place", descending=[falling, False], nulls_last=True)
    return rows["place"].to_numpy().astype(np.int64)


def _firsts(lists: pl.Series) -> list[int | None]:
    return lists.list.first().to_list()


def _number(params: Mapping[str, str], name: str) -> float | None:
    """A density, also in percent."""
    text = params.get(name, "").strip()
    if not text:
        return None
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise HarvestError(f"{name} is {text!r}, not a density: write 0.01 or 1%.")
    return number


def _text(value: object) -> str:
    if value is True:
        return "1"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
