"""Scores of trials with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


class Estimate(NamedTuple):
    """A score and the 95 % interval around it, all in [0, 1]."""

    score: float
    low: float
    high: float


def binned(scores: Iterable[float], n: int) -> list[int]:
    """How many scores are in each of n equal parts of [0, 1]; a lower end is part of its bin."""
    counts = [0] * n
    for score in scores:
        counts[min(n - 1, int(score * n + 1e-9))] += 1
    return counts


def share(hits: int, n: int, different: int | None = None) -> Estimate:
    """The share of hits with Wilson's interval, which is honest about few trials.

    Args:
        hits: successes.
        n: trials, at least one.
        different: of the trials, where some repeat others; the interval is that of so many.
    """
    p, z2 = hits / n, _Z * _Z
    n = n if different is None else min(n, different)
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return Estimate(p, max(0.0, min(middle - half, p)), min(1.0, max(middle + half, p)))


def balanced_accuracy(
    true_hits: int,
    n_true: int,
    false_hits: int,
    n_false: int,
    *,
    different_true: int | None = None,
    different_false: int | None = None,
) -> Estimate:
    """The mean of the shares of true and of false contexts that were recognized.

    The interval combines the Wilson intervals of the two shares by the method of variance estimates
    recovery (Zou & Donner 2008), which stays inside [0, 1].

    Args:
        true_hits: true contexts that were called true.
        n_true: true contexts, at least one.
        false_hits: false contexts that were called false.
        n_false: false contexts, at least one.
        different_true: of the true contexts; see `share`.
        different_false: of the false ones.
    """
    a = share(true_hits, n_true, different_true)
    b = share(false_hits, n_false, different_false)
    score = (true_hits * n_false + false_hits * n_true) / (2 * n_true * n_false)
    below = math.hypot(a.score - a.low, b.score - b.low) / 2
    above = math.hypot(a.high - a.score, b.high - b.score) / 2
    return Estimate(score, max(0.0, score - below), min(1.0, score + above))
