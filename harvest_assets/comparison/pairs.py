"""For each component of one harvest, those of another that fire at the same positions.

With n_a and n_b firings, and n_ab positions at which both fire:

    jaccard    n_ab / (n_a + n_b - n_ab)
    precision  n_ab / n_a              recall  n_ab / n_b

All pairs are counted, a block of components at a time, and the best of each component are kept: at
most 17 blocks of 16 MB are in memory, whatever the number of components.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harvest_assets.comparison.firings import Firings, cross_counts
from harvest_assets.comparison.stored_pairs import COLUMNS

if TYPE_CHECKING:
    import polars as pl

_BLOCK_BYTES = 8 << 20  # of counts; their scores take as much again
_PLACES = ("a", "b", "rank", "n_ab")


@dataclass(frozen=True)
class _Found:
    """The best pairs of a block of components with all of the other harvest.

    Args:
        pairs: int64 [4, n]: see `_PLACES`; a and b are numbered among the components that fired.
        score: float64 [C of the other], the best of each in this block.
        first: int64 [C of the other], the component that has it.
    """

    pairs: NDArray[np.int64]
    score: NDArray[np.float64]
    first: NDArray[np.int64]


def best_pairs(
    one: Firings,
    other: Firings,
    keys: Sequence[str],
    other_keys: Sequence[str],
    top: int,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> pl.DataFrame:
    """The best matches of each component that fired.

    Args:
        one: firings of the components that are matched.
        other: firings, at the same positions, of those that they are matched with.
        keys: of the former, in flat order.
        other_keys: of the latter.
        top: matches of each component at most.
        progress: called with the number of components that are done, and with that of all.

    Returns:
        The columns component_a, component_b, rank (from 1), n_a, n_b, n_ab, jaccard, precision,
        recall, and mutual: whether each is the best match of the other. Components with the best
        matches come first. Of equal scores, the component that is first in flat order is taken. A
        component that fires together with none has one row, whose component_b, n_b and recall are
        null.
    """
    from harvest_assets.results.side_by_side import in_order

    one, alive = one.of_those_alive()
    other, other_alive = other.of_those_alive()
    n_a, n_b = one.counts, other.counts
    ends, position = one.transposed()
    step = max(1, _BLOCK_BYTES // (8 * max(1, len(n_b))))
    blocks = [range(i, min(i + step, len(n_a))) for i in range(0, len(n_a), step)]
    pairs = [np.empty((len(_PLACES), 0), np.int64)]
    score, first = np.zeros(len(n_b)), np.full(len(n_b), -1)

    def best_of(rows: range) -> _Found:
        n_ab = cross_counts(ends, position, other, rows)
        return _best_of(rows, n_ab, n_a[rows.start : rows.stop], n_b, top)

    for rows, found in zip(blocks, in_order(best_of, blocks), strict=True):
        better = found.score > score
        score[better], first[better] = found.score[better], found.first[better]
        pairs.append(found.pairs)
        progress(rows.stop, len(n_a))
    a, b, rank, n_ab = np.concatenate(pairs, axis=1)
    columns = {"a": a, "b": b, "rank": rank, "n_b": n_b[b], "n_ab": n_ab}
    mutual = (rank == 1) & (first[b] == a)
    return _table(
        {"a": np.arange(len(n_a)), "component_a": [keys[i] for i in alive], "n_a": n_a},
        {**columns, "component_b": [other_keys[other_alive[i]] for i in b], "mutual": mutual},
    )


def _best_of(
    rows: range,
    n_ab: NDArray[np.int64],
    n_a: NDArray[np.int64],
    n_b: NDArray[np.int64],
    top: int,
) -> _Found:
    score = n_ab / (n_a[:, None] + n_b - n_ab)
    if not len(n_b):
        return _Found(np.empty((len(_PLACES), 0), np.int64), np.empty(0), np.empty(0, np.int64))
    best, first = score.max(axis=0), score.argmax(axis=0) + rows.start
    each, found = np.arange(len(rows)), []
    for rank in range(1, min(top, len(n_b)) + 1):
        place = score.argmax(axis=1)
        hit = score[each, place] > 0
        a, b = each[hit], place[hit]
        found.append(np.stack([a + rows.start, b, np.full(len(a), rank), n_ab[a, b]]))
        score[each, place] = 0
    return _Found(np.concatenate(found, axis=1), best, first)


def _table(components: dict[str, Any], pairs: dict[str, Any]) -> pl.DataFrame:
    import polars as pl

    integers = dict.fromkeys((*_PLACES, "n_a", "n_b"), pl.Int64)
    strings = dict.fromkeys(("component_a", "component_b"), pl.String)
    types = {**integers, **strings, "mutual": pl.Boolean}

    def frame(columns: dict[str, Any]) -> pl.DataFrame:
        return pl.DataFrame(columns, schema={name: types[name] for name in columns})

    joined = (
        frame(components)
        .join(frame(pairs), on="a", how="left")
        .with_columns(
            pl.col("rank").fill_null(1),
            pl.col("n_ab").fill_null(0),
            pl.col("mutual").fill_null(value=False),
        )
    )
    n_a, n_b, n_ab = (pl.col(name) for name in ("n_a", "n_b", "n_ab"))
    scored = joined.with_columns(
        jaccard=(n_ab / (n_a + n_b - n_ab)).fill_null(0.0),
        precision=n_ab / n_a,
        recall=n_ab / n_b,
    )
    best = pl.col("jaccard").max().over("a")
    ordered = scored.sort(best, pl.col("a"), pl.col("rank"), descending=[True, False, False])
    return ordered.select(*COLUMNS)
