"""Axes of powers of ten, and axes whose ticks are texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from harvest_assets.notebook.plots.lettering import cut, families
from harvest_assets.viewer.charts import decades

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW = 11.0  # points that a row of text needs


def label_powers(axes: Axes, which: Literal["x", "y"], low: int, high: int) -> None:
    """Label an axis of logarithms with powers of ten, as the viewer's charts do."""
    ticks = [(low + (high - low) * share, name) for share, name in decades(low, high)]
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks([at for at, _ in ticks], labels=[name for _, name in ticks])
    axes.set(**{f"{which}lim": (low, high)})


def rows_of_text(axes: Axes, texts: Sequence[str]) -> None:
    """Label the rows of a chart from the top; where there are many, in small type."""
    height = axes.get_figure(root=True).get_size_inches()[1] * 72  # type: ignore[union-attr]
    size = min(7.0, 7.0 * 0.8 * height / (_ROW * max(1, len(texts))))
    labels = [cut(text) for text in texts]
    axes.set_yticks(np.arange(len(texts)), labels=labels, fontsize=size, family=families())
    axes.set_ylim(len(texts) - 0.5, -0.5)
