"""The two big sums of a harvest, over the positions n at which component c fired.

    out[c, m] += sum over n of firing[n, c] * values[n, m]

With the firings themselves as values this counts co-firings; with the next-token probabilities it
is the probability mass per component.
"""

from __future__ import annotations

import warnings

import torch

# A block of this many columns of a few thousand positions stays in a CPU's cache.
_SPARSE_COLUMNS = 64
_DENSE_COLUMNS = 1024
# Measured on CPU: from about one firing in eight on, the dense product wins.
_DENSE_FROM = 1 / 8


def add_firing_products(
    out: torch.Tensor, firing: torch.Tensor, values: torch.Tensor, dtype: torch.dtype
) -> None:
    """Add `firing.T @ values` to `out`, computed in `dtype`.

    Exact for 0/1 values in float32 up to 2^24 positions; in float64 the error is that of a plain
    float64 sum.

    Args:
        out: [C, M], any dtype that holds the sums; changed in place.
        firing: bool [n, C].
        values: [n, M].
        dtype: float32 or float64.
    """
    factor, columns = _left_factor(firing, dtype)
    for start in range(0, values.shape[1], columns):
        block = slice(start, start + columns)
        out[:, block] += (factor @ values[:, block].to(dtype)).to(out.dtype)


def _left_factor(firing: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, int]:
    """`firing.T` in the form that multiplies faster, and how many columns to multiply by."""
    transposed = firing.T.contiguous()
    n_firings = int(transposed.sum())
    if n_firings > _DENSE_FROM * firing.numel():
        return transposed.to(dtype), _DENSE_COLUMNS
    columns = values_per_block(firing.device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Ss]parse.*", category=UserWarning)
        return transposed.to(dtype).to_sparse_csr(), columns


def values_per_block(device: torch.device) -> int:
    """Columns multiplied at once by a sparse factor."""
    return _SPARSE_COLUMNS if device.type == "cpu" else _DENSE_COLUMNS
