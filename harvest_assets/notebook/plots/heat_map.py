"""Shaded cells: counts of components, and how often components fire together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harvest_assets.notebook.plots.lettering import cut
from harvest_assets.notebook.plots.plot import SHADES, Size, axes_of
from harvest_assets.viewer.figures import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harvest_assets.viewer.bins import Cells

_DIVERGING = "PuOr_r"
_NAMES = {
    "jaccard": "Jaccard index",
    "pmi": "PMI (nats)",
    "precision": "share of the row's firings",
    "recall": "share of the column's firings",
}
_MAX_WRITTEN = 12  # components, up to which values are written into the cells
_NOTHING = "#F0F0F0"  # the diagonal, and pairs that never fired together


def draw_heat_map(
    names: Sequence[str], values: NDArray[np.float64], metric: str, size: Size | None
) -> Figure:
    """Draw values, float64 [n, n], of which some may be NaN."""
    n = len(names)
    edge = min(9.0, 2.6 + 0.22 * n)
    figure, axes = axes_of(size or (edge + 0.4, edge))
    figure.set_layout_engine("compressed")
    axes.set_facecolor(_NOTHING)
    axes.grid(visible=False)
    image = axes.imshow(np.ma.masked_invalid(values), aspect="equal", **_scale(values, metric))
    figure.colorbar(image, ax=axes, label=_NAMES[metric], shrink=0.8)
    labels = [cut(name) for name in names]
    inches = figure.get_size_inches()[1]
    font = min(7.0, 72 * 0.7 * inches / n * 0.85)
    axes.set_yticks(range(n), labels=labels, fontsize=font)
    axes.set_xticks(range(n), labels=labels, fontsize=font, rotation=90)
    if n <= _MAX_WRITTEN:
        _write_values(axes, image, values)
    return figure


def draw_cells(figure: Figure, axes: Axes, cells: Cells) -> None:
    """Draw counts in cells whose axes are powers of ten, shaded by the logarithm of the count."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import LogNorm

    n_x, n_y = cells.counts.shape
    x, y = np.linspace(*cells.x_ends, n_x + 1), np.linspace(*cells.y_ends, n_y + 1)
    found = np.argwhere(cells.counts).tolist()
    corners = ((0, 0), (1, 0), (1, 1), (0, 1))
    boxes = [[(x[i + right], y[j + up]) for right, up in corners] for i, j in found]
    highest = max(2, int(cells.counts.max()))
    # From below 1, so that a single component is not white.
    norm = LogNorm(0.3, highest)
    shapes = PolyCollection(boxes, cmap=SHADES, norm=norm, edgecolors="face", linewidths=0.2)
    shapes.set_array(np.array([cells.counts[i, j] for i, j in found]))
    axes.add_collection(shapes)
    bar = figure.colorbar(shapes, ax=axes, label="components")
    bar.ax.set_ylim(bottom=1)
    ticks = [m * 10**p for p in range(len(str(highest))) for m in (1, 3) if m * 10**p <= highest]
    bar.set_ticks(ticks, labels=[f"{it:,}" for it in ticks])
    bar.minorticks_off()


def _scale(values: NDArray[np.float64], metric: str) -> dict[str, Any]:
    found = values[np.isfinite(values)]
    if metric == "pmi":
        high = float(np.abs(found).max(initial=0.0)) or 1.0
        return {"cmap": _DIVERGING, "vmin": -high, "vmax": high}
    return {"cmap": SHADES, "vmin": 0.0, "vmax": float(found.max(initial=0.0)) or 1.0}


def _write_values(axes: Axes, image: Any, values: NDArray[np.float64]) -> None:
    for i, j in np.argwhere(np.isfinite(values)).tolist():
        red, green, blue, _ = image.cmap(image.norm(values[i, j]))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5  # noqa: PLR2004
        color = "white" if dark else "black"
        axes.text(j, i, short(values[i, j]), ha="center", va="center", fontsize=5.5, color=color)
