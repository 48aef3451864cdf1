"""What chance does to the counts of a uniform sampler.

Seeds are fixed, so a test fails always or never; the limits are such that a right sampler would
fail for one choice of seeds in a million.
"""

from __future__ import annotations

from statistics import NormalDist

ONE_IN_A_MILLION = 1e-6


def normal_limit(n_tests=1):
    """What the largest of `n_tests` standard normal values exceeds once in a million times."""
    return NormalDist().inv_cdf(1 - ONE_IN_A_MILLION / (2 * n_tests))


def chi_square_limits(degrees):
    """The interval that holds chi-square but for one in a million (Wilson and Hilferty)."""
    spread = 2 / (9 * degrees)
    return tuple(
        degrees * (1 - spread + z * spread**0.5) ** 3 for z in (-normal_limit(), normal_limit())
    )


def inclusion_chi_square(counts, n_trials, k):
    """Chi-square, with n - 1 degrees, of how often each of n firings was in a sample of k.

    Each trial draws k of n without replacement: inclusions have the variance p (1 - p) and the
    covariance -p (1 - p) / (n - 1).
    """
    n = len(counts)
    p = k / n
    variance = n_trials * p * (1 - p) * n / (n - 1)
    return float(((counts - n_trials * p) ** 2).sum() / variance)
