"""Output probability mass of sparse firings, compiled for this CPU.

    mass[c, v] += sum over the positions n at which c fired of prob[n, v]

A block of columns is made contiguous first, so that the rows that are added repeatedly stay in the
CPU's cache; sums are float64. Threads share the columns, so that their number changes no bit.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

from harvest_assets.harvester.compiled import compiled
from harvest_assets.harvester.firing_list import FiringList

_COLUMNS = 256


def add_sparse_output_sums(mass: torch.Tensor, probs: torch.Tensor, listed: FiringList) -> None:
    """Add the probabilities at the positions of the firings.

    Args:
        mass: float64 [C, V], changed in place.
        probs: float [n, V].
        listed: the firings at the n positions.
    """
    if probs.dtype not in (torch.float32, torch.float64):
        probs = probs.float()
    vocab = probs.shape[1]
    n_threads = torch.get_num_threads()
    share = -(-vocab // (n_threads * _COLUMNS)) * _COLUMNS
    arguments = (
        mass.numpy(),
        probs.numpy(),
        listed.position[listed.by_component].int().numpy().view(np.uint32),
        pad(listed.per_component.cumsum(0), (1, 0)).numpy(),
    )
    with ThreadPoolExecutor(n_threads) as threads:
        parts = [
            threads.submit(_add_columns, *arguments, first, min(first + share, vocab))
            for first in range(0, vocab, share)
        ]
    for part in parts:
        part.result()


@compiled
def _add_columns(
    mass: NDArray[np.float64],
    probs: NDArray[np.float32],
    positions: NDArray[np.uint32],
    ends: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """The columns from `first` to `last`; `positions` of component c end at `ends[c + 1]`."""
    block = np.zeros((len(probs), _COLUMNS), probs.dtype)
    total = np.empty(_COLUMNS)
    for start in range(first, last, _COLUMNS):
        width = min(_COLUMNS, last - start)
        block[:, :width] = probs[:, start : start + width]
        for c in range(len(mass)):
            if ends[c] < ends[c + 1]:
                _sum_rows(total, block, positions[ends[c] : ends[c + 1]])
                mass[c, start : start + width] += total[:width]


@compiled
def _sum_rows(
    total: NDArray[np.float64], block: NDArray[np.float32], rows: NDArray[np.uint32]
) -> None:
    """total[v] = sum over `rows` of block[row, v], in float64."""
    total[:] = 0
    whole = len(rows) - len(rows) % 4
    # Four at a time: fewer additions wait for the one before.
    for k in range(0, whole, 4):
        a, b, c, d = block[rows[k]], block[rows[k + 1]], block[rows[k + 2]], block[rows[k + 3]]
        for v in range(_COLUMNS):
            pair = np.float64(a[v]) + np.float64(b[v])
            total[v] += pair + (np.float64(c[v]) + np.float64(d[v]))
    for k in range(whole, len(rows)):
        a = block[rows[k]]
        for v in range(_COLUMNS):
            total[v] += np.float64(a[v])
