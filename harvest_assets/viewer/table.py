"""The table of components: a query read from an address, and its rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray

from harvest_assets.viewer.interpreted import interpreted, listed_keys

if TYPE_CHECKING:
    import polars as pl

    from harvest_assets.viewer.harvest import Harvest

PAGE_SIZE = 50
SORTS = ("informativeness", "density", "mean_ci", "layer", "reads", "predicts", "label")
_SCORE = "score_"  # begins the columns of scores
_OLD_SORTS = {"telling": "informativeness"}  # in addresses that people have kept
# Texts and layers are in rising order, numbers in falling.
_RISING = ("layer", "reads", "predicts", "label")
_MAX_ORDERS = 64
_MAX_ID = (1 << 31) - 1  # a tokenizer may have ids that no harvest can store


@dataclass(frozen=True)
class TableQuery:
    """Which components, in which order; each field is a parameter of the address.

    Args:
        q: words, each part of the component's key; see `_has_word`.
        token: part of one of its most informative tokens; in double quotes, the whole token.
        layer: its layer.
        min: lowest density.
        max: highest density.
        dead: include components that never fired.
        label: words, each part of its label, note, tags or the reason of the label.
        tag: one of its tags.
        labelled: only those with a label.
        starred: only those with a star.
        listed: name of a list, see `interpretations.lists`.
        sort: one of `SORTS` or the column of a score; empty means the most informative first, where
            that is known.
        reverse: reverses the order.
    """

    q: str = ""
    token: str = ""
    layer: str = ""
    min: float | None = None
    max: float | None = None
    dead: bool = False
    label: str = ""
    tag: str = ""
    labelled: bool = False
    starred: bool = False
    listed: str = ""
    sort: str = ""
    reverse: bool = False

    @classmethod
    def of(cls, params: Mapping[str, str]) -> Self:
        """The query of an address, without an unknown sort and without `unreadable` densities."""
        sort = params.get("sort", "")
        sort = _OLD_SORTS.get(sort, sort)
        return cls(
            q=params.get("q", "").strip(),
            token=params.get("token", ""),
            layer=params.get("layer", ""),
            min=_density(params.get("min", "")),
            max=_density(params.get("max", "")),
            dead=params.get("dead") == "1",
            label=params.get("label", "").strip(),
            tag=params.get("tag", ""),
            labelled=params.get("labelled") == "1",
            starred=params.get("starred") == "1",
            listed=params.get("listed", ""),
            sort=sort if sort in SORTS or sort.startswith(_SCORE) else "",
            reverse=params.get("reverse") == "1",
        )

    def params(self, **changes: object) -> str:
        """The query string; fields that are not set are left out."""
        fields = {**dataclasses.asdict(self), **changes}
        shown = {k: _text(v) for k, v in fields.items() if v not in ("", None, False)}
        return urlencode(shown)

    def sorted_by(self, harvest: Harvest) -> str:
        """The column that the rows are sorted by."""
        default = "informativeness" if harvest.has_informativeness else "density"
        if self.sort.startswith(_SCORE) and self.sort not in interpreted(harvest).frame.columns:
            return default
        return default if self.sort in ("informativeness", "") else self.sort

    @property
    def filters(self) -> bool:
        """Whether it may leave out components that fired."""
        words = (self.q, self.token, self.layer, self.label, self.tag, self.listed)
        return any((*words, self.labelled, self.starred)) or (self.min, self.max) != (None, None)


def order(harvest: Harvest, query: TableQuery) -> NDArray[np.int64]:
    """The places in `harvest.frame` of the components that match a query, in its order."""
    listed = listed_keys(harvest, query.listed) if query.listed else None
    key = (query, interpreted(harvest).version, listed)
    if key not in harvest.orders:
        while len(harvest.orders) >= _MAX_ORDERS:
            harvest.orders.pop(next(iter(harvest.orders)), None)
        rows = _filtered(harvest, query)
        if listed is not None:
            rows = rows.filter(rows["component_key"].is_in(listed))
        harvest.orders[key] = _sorted(harvest, query, rows)
    return harvest.orders[key]


def neighbours(harvest: Harvest, query: TableQuery, place: int) -> tuple[int | None, int | None]:
    """The components before and after one in a table; None and the first if it is not in it."""
    places = order(harvest, query)
    found = np.flatnonzero(places == place)
    if len(found) == 0:
        return None, (int(places[0]) if len(places) else None)
    i = int(found[0])
    before = int(places[i - 1]) if i else None
    after = int(places[i + 1]) if i + 1 < len(places) else None
    return before, after


def _filtered(harvest: Harvest, query: TableQuery) -> pl.DataFrame:
    import polars as pl

    rows = harvest.frame.hstack(interpreted(harvest).frame).with_row_index("place")
    tests = [_was_written(query)]
    if not query.dead:
        tests.append(pl.col("firing_count") > 0)
    tests += [_has_word(word) for word in query.q.lower().split()]
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


def _was_written(query: TableQuery) -> pl.Expr:
    """Whether what was written about a component matches."""
    import polars as pl

    tests = [pl.lit(True)]  # noqa: FBT003
    if query.labelled:
        tests.append(pl.col("label").is_not_null())
    if query.starred:
        tests.append(pl.col("starred"))
    if query.tag:
        tests.append(pl.col("tags").list.contains(query.tag))
    text = pl.concat_str(
        ["label", "reason", "note", pl.col("tags").list.join("\n")],
        separator="\n",
        ignore_nulls=True,
    ).str.to_lowercase()
    tests += [text.str.contains(word, literal=True) for word in query.label.lower().split()]
    return pl.all_horizontal(tests)


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


def unreadable(harvest: Harvest, params: Mapping[str, str]) -> dict[str, str]:
    """Why densities and an order in an address are ignored, by parameter."""
    sort = params.get("sort", "")
    scores = [name for name in interpreted(harvest).frame.columns if name.startswith(_SCORE)]
    unknown = sort not in ("", *SORTS, *_OLD_SORTS, *scores)
    expected = ", ".join([*SORTS, *scores])
    given = {name: params.get(name, "").strip() for name in ("min", "max")}
    densities = {
        name: f"{text[:40]!r} is not a density; write 0.01 or 1%."
        for name, text in given.items()
        if text and _density(text) is None
    }
    order_of = {"sort": f"{sort[:40]!r} is not a column; sort by one of {expected}."}
    return {**densities, **(order_of if unknown else {})}


def _density(text: str) -> float | None:
    """A density, also in percent; None if it is none."""
    text = text.strip()
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _has_word(word: str) -> pl.Expr:
    """Whether a component's key contains a word in lower case: `kproj:18` is `h.1.attn.k_proj:18`.

    Dots and dashes do not count, and after a colon the whole index is meant.
    """
    import polars as pl

    plain = str.maketrans("", "", "._-")
    layer, colon, index = word.rpartition(":")
    if colon and index.isdecimal():
        same_index = pl.col("component_idx") == int(index) if len(index) < 10 else pl.lit(False)  # noqa: FBT003, PLR2004
        return same_index & _plain("layer").str.contains(layer.translate(plain), literal=True)
    return _plain("component_key").str.contains(word.translate(plain), literal=True)


def _plain(column: str) -> pl.Expr:
    """A column in lower case, without dots and dashes."""
    import polars as pl

    return pl.col(column).str.to_lowercase().str.replace_all(r"[._\-]", "")


def _text(value: object) -> str:
    if value is True:
        return "1"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
