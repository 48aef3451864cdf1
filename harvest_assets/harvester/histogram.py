"""Histogram of the causal importances at which a component fires.

64 bins: below 1e-6, 62 bins of equal width in log CI from 1e-6 to 1, and from 1 upwards (where
saturated and overshooting sigmoids end).
"""

from __future__ import annotations

import numpy as np
import torch

N_BINS = 64


def bin_edges() -> np.ndarray:
    """The 63 inner edges, float64, rising; a bin holds its lower edge."""
    return np.logspace(-6, 0, N_BINS - 1)


def count_bins(ci: torch.Tensor, component: torch.Tensor, n_components: int) -> torch.Tensor:
    """Count firings per component and bin.

    Args:
        ci: float [n], the causal importance of each firing.
        component: int64 [n], its flat component index.
        n_components: rows of the result.

    Returns:
        int64 [n_components, 64].
    """
    edges = torch.from_numpy(bin_edges()).to(ci.device, torch.float32)
    cells = component * N_BINS + torch.bucketize(ci.float(), edges, right=True)
    counts = torch.bincount(cells, minlength=n_components * N_BINS)
    return counts.view(n_components, N_BINS)
