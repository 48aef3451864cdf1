"""Where the large statistics of a state can be other than zero: in the rows of what fired.

The rest need not be read: in a file it is a hole, which costs as much time as numbers do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from harvest_assets.harvester.counters import packed_offset

if TYPE_CHECKING:
    from harvest_assets.harvester.state import HarvesterState

LARGE_STATISTICS = ("cooccurrence", "input_counts", "output_token_prob_mass")
STATISTICS = (
    *LARGE_STATISTICS,
    "ci_sums",
    "ci_histogram",
    "input_token_totals",
    "output_token_prob_totals",
)


def cut(whole: slice, step: int) -> Iterator[slice]:
    """Cut a slice into slices of `step`, at least 1."""
    step = max(1, step)
    for start in range(whole.start, whole.stop, step):
        yield slice(start, min(start + step, whole.stop))


def runs(fired: torch.Tensor, step: int | None = None) -> Iterator[slice]:
    """The slices of consecutive components that fired.

    Args:
        fired: bool [C].
        step: the most components of a slice, at least 1; None: no limit.
    """
    edges = np.flatnonzero(np.diff(fired.numpy(), prepend=False, append=False)).tolist()
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        yield from cut(slice(start, stop), stop - start if step is None else step)


def joined(slices: Iterable[slice], gap: int) -> Iterator[slice]:
    """Slices in order, those joined of which one begins at most `gap` after the end of another."""
    whole: slice | None = None
    for part in slices:
        if whole is not None and part.start - whole.stop <= gap:
            whole = slice(whole.start, part.stop)
            continue
        if whole is not None:
            yield whole
        whole = part
    if whole is not None:
        yield whole


def entries(statistic: str, run: slice, n_components: int) -> slice:
    """The first dimension of one of `LARGE_STATISTICS` for a run of components."""
    if statistic != "cooccurrence":
        return run
    return slice(packed_offset(run.start, n_components), packed_offset(run.stop, n_components))


def filled_parts(state: HarvesterState, statistic: str) -> Iterator[torch.Tensor]:
    """The parts of a statistic of a state outside of which all is zero."""
    values = getattr(state, statistic)
    if statistic not in LARGE_STATISTICS:
        yield values
        return
    for run in runs(state.fired):
        yield values[entries(statistic, run, state.settings.n_components)]
