"""Compare two harvests: what they count, and which of their components fire together."""

from __future__ import annotations

import shlex
import warnings
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harvest_assets.comparison import stored_pairs
from harvest_assets.comparison.counting import Progress, count_pairs
from harvest_assets.comparison.opened import OpenedHarvest
from harvest_assets.comparison.same_rows import Sameness, check_same_rows
from harvest_assets.comparison.stored_pairs import PairsOf
from harvest_assets.comparison.summaries import components_of, layers_of, summary_of
from harvest_assets.errors import HarvestError

if TYPE_CHECKING:
    import polars as pl

    from harvest_assets.files.layout import HarvestLayout

DEFAULT_TOP = 3
_MAX_TOP = 100
_CLOSE = 0.5


@dataclass(frozen=True)
class Matches:
    """How well the components of one harvest are matched by those of another.

    Args:
        components: that fired in the rows compared.
        mean_jaccard: of their best matches.
        median_jaccard: of the same.
        close: components whose best match has a Jaccard index of at least 0.5.
        mutual: components that are the best match of their best match.
    """

    components: int
    mean_jaccard: float
    median_jaccard: float
    close: int
    mutual: int

    @classmethod
    def of(cls, pairs: pl.DataFrame) -> Matches:
        """Of the pairs of `best_pairs`."""
        best = pairs.filter(pairs["rank"] == 1)
        scores = best["jaccard"].to_numpy()
        return cls(
            len(best),
            float(scores.mean()) if len(scores) else 0.0,
            float(np.median(scores)) if len(scores) else 0.0,
            int((scores >= _CLOSE).sum()),
            int(best["mutual"].sum()),
        )


@dataclass(frozen=True)
class Comparison:
    """Two harvests of the same rows.

    Args:
        run_a: the folder of the first, below `harvest/`.
        run_b: that of the second.
        sameness: what is known of their rows and targets.
        summary: one row for each harvest; see `summaries.summary_of`.
        layers: one row for each layer of each; see `summaries.layers_of`.
        components: one row for each component of each; see `summaries.components_of`.
        pairs: the best matches of the components of the first; see `pairs.best_pairs`. None where
            they were not computed.
        pairs_of: the rows that they were counted over; None where they were not.
        not_countable: why pairs cannot be counted, in a sentence; None where nothing prevents it.
    """

    run_a: str
    run_b: str
    sameness: Sameness
    summary: pl.DataFrame
    layers: pl.DataFrame
    components: pl.DataFrame
    pairs: pl.DataFrame | None = None
    pairs_of: PairsOf | None = None
    not_countable: str | None = None

    @property
    def numbers(self) -> pl.DataFrame:
        """`summary` and `layers` in one frame; `layer` is null in the rows of whole harvests."""
        import polars as pl

        both = pl.concat([self.summary, self.layers], how="diagonal")
        return both.select("harvest", "layer", pl.exclude("harvest", "layer"))

    @property
    def matches(self) -> Matches | None:
        """The pairs in a few numbers; None where there are none."""
        return None if self.pairs is None else Matches.of(self.pairs)

    @property
    def command(self) -> str:
        """The command that computes the pairs."""
        return shlex.join(["harvest-assets", "compare", self.run_a, self.run_b])

    def as_json(self, n_pairs: int | None = None) -> dict[str, Any]:
        """All of it as JSON values, but for `components`.

        Args:
            n_pairs: rows of `pairs` at most; None: all.
        """
        value = {
            "run_a": self.run_a,
            "run_b": self.run_b,
            "same_target": self.sameness.same_target,
            "difference": self.sameness.difference,
            "warnings": list(self.sameness.warnings),
            "summary": self.summary.to_dicts(),
            "layers": self.layers.to_dicts(),
            "pairs": None,
        }
        if self.pairs is not None and self.pairs_of is not None and self.matches is not None:
            value["pairs"] = {
                **asdict(self.pairs_of),
                "matches": asdict(self.matches),
                "best": self.pairs.head(len(self.pairs) if n_pairs is None else n_pairs).to_dicts(),
            }
        return value


def compare(
    run_a: str | HarvestLayout,
    run_b: str | HarvestLayout,
    *,
    rows: int | None = None,
    top: int = DEFAULT_TOP,
    progress: Progress = lambda _activity, _done, _total: None,
) -> Comparison:
    """Compare two finished harvests of the same rows, pairs of components included.

    Pairs that were counted before are used again. Otherwise firings that both harvests kept are
    read, or both models are opened and compute the first rows again; the pairs are kept for the
    next time.

    Args:
        run_a: the folder below `harvest/`, any name of the run, or the paths of a harvest.
        run_b: the other.
        rows: rows to count pairs over, from the first on; None: as before, else all whose firings
            were kept, else 200.
        top: matches to keep of each component, at most 100.
        progress: called with what is done, how much of it, and of how much.

    Raises:
        NotComparableError: the harvests are of different rows.
        HarvestError: one is not finished, or the pairs cannot be counted here.
    """
    from harvest_assets.store.lookup import find_harvest

    def paths_of(run: str | HarvestLayout) -> HarvestLayout:
        return find_harvest(run) if isinstance(run, str) else run

    if not 1 <= top <= _MAX_TOP or (rows is not None and rows < 1):
        raise HarvestError(
            f"rows is {rows} and top is {top}; expected at least 1, and at most {_MAX_TOP} for top."
        )
    one, other, sameness = _opened(paths_of(run_a), paths_of(run_b))
    found = stored_pairs.find(one, other)
    wanted = None if rows is None else min(rows, one.n_rows)
    if wanted is None and found is not None:
        wanted = found[0].n_rows
    if found is None or wanted != found[0].n_rows or found[0].top < top:
        found = count_pairs(one, other, wanted, top, progress)
        _keep(one, other, *found)
    of, pairs = found
    pairs = pairs.filter(pairs["rank"] <= top)
    return Comparison(*_numbers(one, other, sameness), pairs, replace(of, top=top))


def _keep(one: OpenedHarvest, other: OpenedHarvest, of: PairsOf, pairs: pl.DataFrame) -> None:
    try:
        stored_pairs.store(one, other, of, pairs)
    except (HarvestError, OSError) as error:  # the harvest may be somebody else's
        warnings.warn(f"The pairs are not kept for the next time: {error}", stacklevel=3)


def compare_known(one: HarvestLayout, other: HarvestLayout) -> Comparison:
    """Compare two finished harvests without opening a model.

    Args:
        one: paths of the first.
        other: paths of the second.

    Returns:
        With the pairs that `compare` kept, if it did.

    Raises:
        NotComparableError: the harvests are of different rows.
        HarvestError: one is not finished.
    """
    opened = _opened(one, other)
    of, pairs = stored_pairs.find(*opened[:2]) or (None, None)
    reasons = [it.not_computable for it in opened[:2]]
    return Comparison(*_numbers(*opened), pairs, of, next(filter(None, reasons), None))


def _opened(a: HarvestLayout, b: HarvestLayout) -> tuple[OpenedHarvest, OpenedHarvest, Sameness]:
    one, other = OpenedHarvest.of(a), OpenedHarvest.of(b)
    return one, other, check_same_rows(one, other)


def _numbers(
    one: OpenedHarvest, other: OpenedHarvest, sameness: Sameness
) -> tuple[str, str, Sameness, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    harvests = (one, other)
    components = components_of(harvests)
    summary, layers = summary_of(harvests, components), layers_of(components)
    return one.name, other.name, sameness, summary, layers, components
