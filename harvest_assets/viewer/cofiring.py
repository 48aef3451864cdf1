"""How often the components of a chosen set fire together."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from harvest_assets.analysis import Metric, correlation_scores
from harvest_assets.errors import HarvestError

if TYPE_CHECKING:
    from harvest_assets.viewer.harvest import Harvest

NOT_COUNTED = (
    "Which components fire together was not counted: the run was harvested with --no-cooccurrence; "
    "harvest it with --cooccurrence."
)


def cofiring_scores(
    harvest: Harvest, places: NDArray[np.int64], metric: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Counts and scores of all pairs of a set.

    Args:
        harvest: the harvest.
        places: of the components, int64 [n].
        metric: jaccard, precision, recall or pmi.

    Returns:
        Positions at which both fired, int64 [n, n], and the scores of the row's component with the
        column's, float64 [n, n]: NaN on the diagonal and where the two never fired together.

    Raises:
        HarvestError: that was not counted.
    """
    if not harvest.counts_cofirings:
        raise HarvestError(NOT_COUNTED)
    together = np.stack([harvest.together(place)[places] for place in places.tolist()])
    firings = harvest.firing_counts[places].astype(np.float64)
    scores = np.full(together.shape, np.nan)
    for i, row in enumerate(together):
        others = np.flatnonzero(row)
        others = others[others != i]
        if len(others) == 0:
            continue
        found = correlation_scores(
            row[others].astype(np.float64), firings[i], firings[others], float(harvest.n_tokens)
        )
        scores[i, others] = found[cast("Metric", metric)]
    return together, scores
