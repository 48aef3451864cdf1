"""What a page shows of one component, computed from its counts on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from harvest_assets.analysis import correlation_scores, ranked, token_scores

if TYPE_CHECKING:
    from harvest_assets.data.vocabulary import ShownToken
    from harvest_assets.viewer.harvest import Harvest

# Metrics, and PMI from its lower end.
TOKEN_SORTS = ("recall", "precision", "lift", "pmi", "bottom")
FIRING_SORTS = ("jaccard", "precision", "recall", "pmi", "bottom")


@dataclass(frozen=True)
class TokenRow:
    """A token that a component reads or that the model then predicts, with all its scores."""

    token: ShownToken
    count: float
    scores: dict[str, float]


@dataclass(frozen=True)
class FiringRow:
    """A component that fires together with the one that is shown."""

    key: str
    together: int
    scores: dict[str, float]
    reads: list[ShownToken]
    predicts: list[ShownToken]


@dataclass(frozen=True)
class Neighbourhood:
    """A component and those that fire together with it most, by Jaccard index.

    Args:
        keys: of the component and its n neighbours, which are in flat order.
        layers: the layer of each.
        jaccard: float64 [n + 1, n + 1] of each pair; 0 on the diagonal.
    """

    keys: list[str]
    layers: list[str]
    jaccard: NDArray[np.float64]


@dataclass(frozen=True)
class Portrait:
    """The numbers of one component.

    Args:
        key, layer, place: which one.
        firing_count: firings.
        density: firings per token.
        mean_ci: over all positions.
        mean_ci_firing: over its firings.
        rank: how many of the layer's components fire more often, and how many the layer has.
        reads, predicts: the tokens that a firing is most informative about.
        histogram: of its causal importances; None where not kept.
    """

    key: str
    layer: str
    place: int
    firing_count: int
    density: float
    mean_ci: float
    mean_ci_firing: float
    rank: tuple[int, int]
    reads: list[ShownToken]
    predicts: list[ShownToken]
    histogram: NDArray[np.int64] | None

    @classmethod
    def of(cls, harvest: Harvest, place: int) -> Portrait:
        """The component at a place of the flat order."""
        row: dict[str, Any] = harvest.frame.select(
            "component_key", "layer", "firing_count", "density", "mean_ci"
        ).row(place, named=True)
        same = harvest.firing_counts[(harvest.frame["layer"] == row["layer"]).to_numpy()]
        reads, predicts = shown_tokens(harvest, place)
        return cls(
            key=row["component_key"],
            layer=row["layer"],
            place=place,
            firing_count=row["firing_count"],
            density=row["density"],
            mean_ci=row["mean_ci"],
            mean_ci_firing=row["mean_ci"] / row["density"] if row["density"] else 0.0,
            rank=(int((same > row["firing_count"]).sum()) + 1, len(same)),
            reads=reads,
            predicts=predicts,
            histogram=harvest.ci_histogram(place),
        )


def shown_tokens(harvest: Harvest, place: int) -> tuple[list[ShownToken], list[ShownToken]]:
    """The tokens read and predicted that a component's firing is most informative about."""
    shown = harvest.vocabulary.shown
    reads, predicts = harvest.informative_tokens(place)
    return [shown(t) for t in reads], [shown(t) for t in predicts]


def token_rows(
    harvest: Harvest, place: int, side: Literal["input", "output"], sort: str, k: int
) -> list[TokenRow]:
    """The first tokens of a component by one metric, each with all of them.

    Args:
        harvest: the harvest.
        place: of the component.
        side: the tokens that it reads, or those that are predicted.
        sort: one of `TOKEN_SORTS`.
        k: how many at most.
    """
    counts, totals = (harvest.input_counts if side == "input" else harvest.output_mass)(place)
    firings = float(harvest.firing_counts[place])
    tokens = np.flatnonzero(counts[: harvest.vocabulary.size])
    if firings == 0 or len(tokens) == 0:
        return []
    n_ct = counts[tokens].astype(np.float64)
    scores: Mapping[Any, NDArray[np.float64]] = token_scores(
        n_ct, firings, totals[tokens].astype(np.float64), float(harvest.n_tokens)
    )
    metric = "pmi" if sort == "bottom" else sort
    chosen = ranked(scores[metric], k, largest=sort != "bottom")
    return [
        TokenRow(
            harvest.vocabulary.shown(int(tokens[i])),
            float(n_ct[i]),
            {name: float(values[i]) for name, values in scores.items()},
        )
        for i in chosen
    ]


def firing_rows(harvest: Harvest, place: int, sort: str, k: int) -> list[FiringRow] | None:
    """The components that fire together with one, by one metric of `FIRING_SORTS`.

    None where that was not counted.
    """
    if not harvest.counts_cofirings:
        return None
    together, firings = harvest.together(place), harvest.firing_counts
    others = np.flatnonzero(together)
    others = others[others != place]
    if len(others) == 0:
        return []
    n_ij = together[others].astype(np.float64)
    n_j = firings[others].astype(np.float64)
    scores: Mapping[Any, NDArray[np.float64]] = correlation_scores(
        n_ij, float(firings[place]), n_j, float(harvest.n_tokens)
    )
    metric = "pmi" if sort == "bottom" else sort
    keys = harvest.frame["component_key"]
    return [
        FiringRow(
            keys[int(others[i])],
            int(together[others[i]]),
            {name: float(values[i]) for name, values in scores.items()},
            *shown_tokens(harvest, int(others[i])),
        )
        for i in ranked(scores[metric], k, largest=sort != "bottom")
    ]


def neighbourhood(harvest: Harvest, place: int, k: int = 12) -> Neighbourhood | None:
    """The nearest neighbours of a component by co-firing, and how near they are to each other.

    None where that was not counted, or nothing fired together with it.

    Args:
        harvest: the harvest.
        place: of the component.
        k: neighbours at most.
    """
    rows = firing_rows(harvest, place, "jaccard", k)
    if not rows:
        return None
    places = [place, *sorted(harvest.places[row.key] for row in rows)]
    firings = harvest.firing_counts[places].astype(np.float64)
    together = np.array([harvest.together(p)[places] for p in places], dtype=np.float64)
    np.fill_diagonal(together, 0)
    return Neighbourhood(
        keys=[harvest.frame["component_key"][p] for p in places],
        layers=[harvest.frame["layer"][p] for p in places],
        jaccard=together / (firings[:, None] + firings - together),
    )


def pair(harvest: Harvest, one: int, other: int) -> dict[str, float] | None:
    """How two components fire together; None if they never do, or if it was not counted."""
    if one == other or not harvest.counts_cofirings:
        return None
    together = int(harvest.together(one)[other])
    if together == 0:
        return None
    n_i, n_j = (float(harvest.firing_counts[place]) for place in (one, other))
    scores = correlation_scores(
        np.array([float(together)]), n_i, np.array([n_j]), float(harvest.n_tokens)
    )
    return {"together": together, **{name: float(value[0]) for name, value in scores.items()}}
