"""Histogram of the causal importances at which a component fires."""

from __future__ import annotations

import torch

from harvest_assets.schemas import N_CI_BINS, ci_bin_edges

N_BINS = N_CI_BINS


def count_bins(ci: torch.Tensor, component: torch.Tensor, n_components: int) -> torch.Tensor:
    """Count firings per component and bin.

    Args:
        ci: float [n], the causal importance of each firing.
        component: int64 [n], its flat component index.
        n_components: rows of the result.

    Returns:
        int64 [n_components, 64].
    """
    edges = torch.from_numpy(ci_bin_edges()).to(ci.device, torch.float32)
    cells = component * N_BINS + torch.bucketize(ci.float(), edges, right=True)
    counts = torch.bincount(cells, minlength=n_components * N_BINS)
    return counts.view(n_components, N_BINS)
