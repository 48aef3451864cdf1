"""Pointwise mutual information of a component and a token, natural log.

PMI(x, y) = log(count(x, y) * n_positions / (count(x) * count(y)))
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harvest_assets.schemas import ComponentTokenPMI

# Rounded before anything is sorted, so that equal harvests give equal bytes.
DECIMALS = 7


def pmi(
    joint: NDArray[np.float64],
    count_x: float | NDArray[np.float64],
    count_y: NDArray[np.float64],
    n_positions: float,
) -> NDArray[np.float64]:
    """PMI of counts or probability masses, all above 0; float64, so no product overflows.

    Equal ratios of `joint` and `count_y` give equal bits: what is tied for one x stays tied.
    """
    return np.log(joint / count_y * (n_positions / count_x))


def top_bottom_pmi(
    counts: NDArray[np.int64] | NDArray[np.float64],
    count_component: float,
    totals: NDArray[np.float64],
    n_positions: int,
    k: int,
    vocab_limit: int,
) -> ComponentTokenPMI:
    """The tokens of highest and of lowest PMI with a component.

    Args:
        counts: [vocab], how often, or with which mass, each token occurred with the component.
        count_component: firings of the component.
        totals: float64 [vocab], the same over all positions.
        n_positions: positions seen.
        k: maximum number of tokens in each list.
        vocab_limit: only ids below it are listed.

    Returns:
        Lists rounded to 7 decimals, top falling and bottom rising, ties by the lower id; only
        tokens that occurred with the component.
    """
    tokens = np.flatnonzero(counts[:vocab_limit])
    if count_component == 0 or len(tokens) == 0:
        return ComponentTokenPMI([], [])
    joint = counts[tokens].astype(np.float64)
    values = np.round(
        pmi(joint, float(count_component), totals[tokens], float(n_positions)), DECIMALS
    )
    values += 0.0  # no negative zero
    return ComponentTokenPMI(_first(tokens, values, -values, k), _first(tokens, values, values, k))


def informative_tokens(
    counts: NDArray[np.int64] | NDArray[np.float64],
    count_component: float,
    totals: NDArray[np.float64],
    n_positions: int,
    k: int,
    vocab_limit: int,
) -> tuple[list[int], float]:
    """The tokens a firing of a component is most informative about, and its information in nats.

    The information is `sum_t p(t | c) log(p(t | c) / p(t))`; the tokens are those of its largest
    terms.

    Args:
        counts: [vocab], as in `top_bottom_pmi`.
        count_component: firings of the component.
        totals: float64 [vocab], as in `top_bottom_pmi`.
        n_positions: positions seen.
        k: maximum number of tokens; only those more frequent with the component than without.
        vocab_limit: only ids below it are listed.
    """
    tokens = np.flatnonzero(counts)
    if count_component == 0 or len(tokens) == 0:
        return [], 0.0
    joint = counts[tokens].astype(np.float64)
    terms = joint / count_component * pmi(joint, count_component, totals[tokens], n_positions)
    listed = np.flatnonzero((terms > 0) & (tokens < vocab_limit))
    first = _first(tokens[listed], terms[listed], -terms[listed], k)
    return [token for token, _ in first], float(terms.sum())


def _first(
    tokens: NDArray[np.intp], values: NDArray[np.float64], keys: NDArray[np.float64], k: int
) -> list[tuple[int, float]]:
    """The k tokens of lowest key; `tokens` rises, so stable sorting breaks ties by the lower id."""
    if 0 < k < len(keys):
        # All that could be among the first k, ties at the k-th key included.
        candidates = np.flatnonzero(keys <= np.partition(keys, k - 1)[k - 1])
        tokens, values, keys = tokens[candidates], values[candidates], keys[candidates]
    order = np.argsort(keys, kind="stable")[:k]
    return list(zip(tokens[order].tolist(), values[order].tolist(), strict=True))
