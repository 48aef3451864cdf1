"""The statistics of a harvest by the book: plain loops in float64, for small inputs.

Imports nothing of `harvest_assets`, so that a test that compares with it compares two programs.
Shapes: `tokens [rows, S]`, `ci [rows, S, C]`, `probs [rows, S, V]`, `acts [rows, S, C]`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

METRICS = ("precision", "recall", "jaccard", "pmi")


@dataclass(frozen=True)
class Statistics:
    """All that adds up over positions."""

    firing_counts: np.ndarray  # int64 [C]
    count_ij: np.ndarray  # int64 [C, C]
    input_token_counts: np.ndarray  # int64 [C, V]
    input_token_totals: np.ndarray  # int64 [V]
    ci_sums: np.ndarray  # float64 [C]
    output_token_prob_mass: np.ndarray  # float64 [C, V]
    output_token_prob_totals: np.ndarray  # float64 [V]
    total_tokens_processed: int


@dataclass(frozen=True)
class Window:
    """The tokens around one firing, the firing in the middle."""

    token_ids: list[int]
    ci_values: list[float]
    component_acts: list[float]


@dataclass(frozen=True)
class Correlated:
    """A component that fires together with another, with the score of the pair."""

    component: int
    score: float
    count_i: int
    count_j: int
    count_ij: int
    count_total: int


@dataclass(frozen=True)
class TokenScores:
    """The four scores of one token for one component."""

    recall: float
    precision: float
    lift: float
    pmi: float


def statistics(tokens, ci, probs, ci_threshold) -> Statistics:
    """Go through all positions one by one."""
    rows, length, n_components = ci.shape
    vocab = probs.shape[-1]
    firing_counts = np.zeros(n_components, np.int64)
    count_ij = np.zeros((n_components, n_components), np.int64)
    input_counts = np.zeros((n_components, vocab), np.int64)
    input_totals = np.zeros(vocab, np.int64)
    ci_sums = np.zeros(n_components, np.float64)
    mass = np.zeros((n_components, vocab), np.float64)
    mass_totals = np.zeros(vocab, np.float64)
    for row in range(rows):
        for position in range(length):
            token = int(tokens[row, position])
            probabilities = probs[row, position].astype(np.float64)
            importances = ci[row, position].astype(np.float64)
            input_totals[token] += 1
            mass_totals += probabilities
            ci_sums += importances
            firing = [c for c in range(n_components) if importances[c] > ci_threshold]
            for i in firing:
                firing_counts[i] += 1
                input_counts[i, token] += 1
                mass[i] += probabilities
                for j in firing:
                    count_ij[i, j] += 1
    return Statistics(
        firing_counts,
        count_ij,
        input_counts,
        input_totals,
        ci_sums,
        mass,
        mass_totals,
        rows * length,
    )


def firings(ci, component, ci_threshold) -> list[tuple[int, int]]:
    """The (row, position) pairs at which the component fires, in reading order."""
    rows, length, _ = ci.shape
    return [
        (row, position)
        for row in range(rows)
        for position in range(length)
        if float(ci[row, position, component]) > ci_threshold
    ]


def highest(firings, ci, acts, component, by) -> list[tuple[int, int]]:
    """The 20 firings of highest CI or of largest activation, each with the other deciding ties.

    Args:
        firings: (row, position) pairs; ties in both go to the earlier.
        ci, acts: of all positions.
        component: which one.
        by: `ci` or `activation`.
    """

    def key(firing):
        strength, size = float(ci[(*firing, component)]), abs(float(acts[(*firing, component)]))
        return (-strength, -size) if by == "ci" else (-size, -strength)

    return sorted(firings, key=key)[:20]


def window(tokens, ci, acts, firing, component, *, tokens_per_side) -> Window:
    """The window around a (row, position): the token -1 and zeros outside the sequence."""
    row, position = firing
    length = tokens.shape[1]
    found = Window([], [], [])
    for place in range(position - tokens_per_side, position + tokens_per_side + 1):
        inside = 0 <= place < length
        found.token_ids.append(int(tokens[row, place]) if inside else -1)
        found.ci_values.append(float(ci[row, place, component]) if inside else 0.0)
        found.component_acts.append(float(acts[row, place, component]) if inside else 0.0)
    return found


def mean_ci(ci_sum, n_positions) -> float:
    """Seven significant digits."""
    return float(f"{float(ci_sum) / int(n_positions):.7g}")


def pmi(count_xy, count_x, count_y, n_positions) -> float:
    """In natural logarithms, one by one: no product of counts can overflow."""
    return (
        math.log(float(count_xy))
        + math.log(float(n_positions))
        - math.log(float(count_x))
        - math.log(float(count_y))
    )


def token_pmi(
    counts: Sequence[float] | np.ndarray,
    token_totals: Sequence[float] | np.ndarray,
    n_firings: int,
    n_positions: int,
    *,
    top_k: int,
    vocab_limit: int,
) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """The top and the bottom list of one component, as `components.jsonl` has them.

    `counts` and `token_totals` are indexed by token id: occurrences for input tokens, probability
    mass for output tokens.
    """
    scored = [
        (token, round(pmi(counts[token], n_firings, token_totals[token], n_positions), 7))
        for token in range(min(len(counts), vocab_limit))
        if counts[token] > 0
    ]
    top = sorted(scored, key=lambda entry: (-entry[1], entry[0]))
    bottom = sorted(scored, key=lambda entry: (entry[1], entry[0]))
    return top[:top_k], bottom[:top_k]


def correlation(metric, n_ij, n_i, n_j, n_positions) -> float:
    """The score of component j for component i, where both fired at least once together."""
    n_ij, n_i, n_j = int(n_ij), int(n_i), int(n_j)
    if metric == "precision":
        return n_ij / n_i
    if metric == "recall":
        return n_ij / n_j
    if metric == "jaccard":
        return n_ij / (n_i + n_j - n_ij)
    if metric == "pmi":
        return pmi(n_ij, n_i, n_j, n_positions)
    raise ValueError(metric)


def correlated_components(
    count_i, count_ij, n_positions, component, metric, *, top_k, largest=True
) -> list[Correlated]:
    """The `top_k` highest or lowest scores, ties to the lower flat index."""
    found = [
        Correlated(
            j,
            correlation(
                metric, count_ij[component, j], count_i[component], count_i[j], n_positions
            ),
            int(count_i[component]),
            int(count_i[j]),
            int(count_ij[component, j]),
            int(n_positions),
        )
        for j in range(len(count_i))
        if j != component and count_ij[component, j] > 0
    ]
    sign = -1 if largest else 1
    return sorted(found, key=lambda entry: (sign * entry.score, entry.component))[:top_k]


def token_scores(counts, token_totals, n_firings, n_positions) -> dict[int, TokenScores]:
    """The scores of all tokens that have a count with one component, by token id."""
    scores = {}
    for token in range(len(counts)):
        n_ct, n_t = float(counts[token]), float(token_totals[token])
        if n_ct > 0:
            precision = n_ct / n_t
            scores[token] = TokenScores(
                recall=n_ct / float(n_firings),
                precision=precision,
                lift=precision / (float(n_firings) / float(n_positions)),
                pmi=pmi(n_ct, n_firings, n_t, n_positions),
            )
    return scores


def ranked_tokens(
    scores: dict[int, TokenScores], score: str, top_k: int, *, largest: bool = True
) -> list[tuple[int, float]]:
    """The `top_k` tokens by one of the scores, ties to the lower id."""
    sign = -1 if largest else 1
    found = [(token, getattr(entry, score)) for token, entry in scores.items()]
    return sorted(found, key=lambda entry: (sign * entry[1], entry[0]))[:top_k]
