"""Figures of some or all components of a harvest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harvest_assets.analysis import METRICS
from harvest_assets.errors import HarvestError
from harvest_assets.notebook.plots.axes import label_powers, rows_of_text
from harvest_assets.notebook.plots.heat_map import draw_cells, draw_heat_map
from harvest_assets.notebook.plots.lettering import cut
from harvest_assets.notebook.plots.plot import BLUE, Plot, Size, axes_of, style
from harvest_assets.suggestions import one_of
from harvest_assets.viewer.bins import ci_density_cells, density_bins
from harvest_assets.viewer.cofiring import cofiring_scores
from harvest_assets.viewer.figures import short
from harvest_assets.viewer.harvest import layers_of

if TYPE_CHECKING:
    from harvest_assets.viewer.harvest import Harvest as ViewedHarvest

_WIDTH = 5.5  # inches: the text of a page of many journals
_MAX_HEAT = 100  # components


@dataclass(frozen=True)
class ComponentsPlots:
    """Figures of components, as `harvest.plot` or `harvest.layer(name).plot`."""

    _harvest: ViewedHarvest
    _places: NDArray[np.int64]
    _place_of: Callable[[str], int]

    def density(self, size: Size = (_WIDTH, 2.4)) -> Plot:
        """Components by how often they fire, in the bins of the viewer's chart.

        Args:
            size: width and height in inches.

        Returns:
            Its data: density_from, density_to, components.
        """
        import polars as pl

        bins = density_bins(self._column("density"))
        with style():
            from matplotlib.ticker import MaxNLocator

            figure, axes = axes_of(size)
            edges = np.linspace(bins.low, bins.high, len(bins.counts) + 1)
            axes.bar(edges[:-1], bins.counts, 0.92 * np.diff(edges), align="edge", color=BLUE)
            label_powers(axes, "x", bins.low, bins.high)
            axes.set(xlabel="density: firings per token", ylabel="components")
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(visible=False, axis="x")
        ends = [bins.edges(b) for b in range(len(bins.counts))]
        start, stop = zip(*ends, strict=True)
        data = {"density_from": start, "density_to": stop, "components": bins.counts}
        return Plot(figure, pl.DataFrame(data))

    def ci_against_density(self, size: Size = (_WIDTH, 3.0)) -> Plot:
        """Components by density and mean firing strength, in the cells of the viewer's chart.

        Args:
            size: width and height in inches.

        Returns:
            Its data, cells with components only: density_from, density_to, mean_ci_from,
            mean_ci_to, components.
        """
        import polars as pl

        cells = ci_density_cells(self._column("density"), self._column("mean_ci"))
        with style():
            figure, axes = axes_of(size)
            draw_cells(figure, axes, cells)
            label_powers(axes, "x", *cells.x_ends)
            label_powers(axes, "y", *cells.y_ends)
            name = cut(f"mean {self._harvest.words.long}")
            axes.set(xlabel="density: firings per token", ylabel=name)
        rows = [
            (*cells.x_edges(i), *cells.y_edges(j), int(cells.counts[i, j]))
            for i, j in np.argwhere(cells.counts).tolist()
        ]
        names = ["density_from", "density_to", "mean_ci_from", "mean_ci_to", "components"]
        schema = dict.fromkeys(names[:-1], pl.Float64) | {"components": pl.Int64}
        return Plot(figure, pl.DataFrame(rows, schema, orient="row"))

    def layers(self, size: Size | None = None) -> Plot:
        """How many components of each layer fire on a token, on average.

        Args:
            size: width and height in inches; by default as high as the layers need.

        Returns:
            Its data, those of `harvest.layers`: layer, components, alive, l0, mean_ci (sum).
        """
        data = layers_of(self._harvest.frame[self._places])
        names, values = data["layer"].to_list(), data["l0"].to_numpy()
        with style():
            figure, axes = axes_of(size or (_WIDTH, min(9.0, 0.6 + 0.2 * len(names))))
            bars = axes.barh(np.arange(len(names)), values, 0.75, color=BLUE)
            rows_of_text(axes, names)
            axes.bar_label(bars, [short(v) for v in values], padding=3, fontsize=7)
            axes.margins(x=0.12)
            axes.set_xlabel("components that fire on a token, mean")
            axes.grid(visible=False, axis="y")
        return Plot(figure, data)

    def cofiring(
        self, keys: Sequence[str] | None = None, by: str = "jaccard", size: Size | None = None
    ) -> Plot:
        """How often components fire together, as a heat map.

        Args:
            keys: of the components, in the order of the rows, or parts of keys that fit no other;
                by default all that `plot` belongs to.
            by: jaccard, precision (the share of a row's firings at which the column fires too),
                recall (the reverse) or pmi.
            size: width and height in inches.

        Returns:
            Its data, a row for each ordered pair: component_key, other, together, and the value
            by its name, null where the two never fired together.

        Raises:
            HarvestError: that was not counted, or there are too few or too many components.
        """
        import polars as pl

        one_of("by", by, METRICS)
        places = self._places.tolist() if keys is None else [self._place_of(it) for it in keys]
        if not 1 < len(places) <= _MAX_HEAT:
            raise HarvestError(
                f"A heat map of {len(places):,} components is not drawn; give from 2 to "
                f"{_MAX_HEAT} keys: plot.cofiring([...])."
            )
        together, values = cofiring_scores(self._harvest, np.array(places), by)
        names = self._harvest.frame["component_key"][places].to_list()
        with style():
            figure = draw_heat_map(names, values, by, size)
        i, j = (it.ravel() for it in np.indices(values.shape))
        pairs: dict[str, Any] = {
            "component_key": [names[a] for a in i],
            "other": [names[b] for b in j],
            "together": together.ravel(),
            by: values.ravel(),
        }
        data = pl.DataFrame(pairs).filter(pl.Series(i != j))
        return Plot(figure, data.with_columns(pl.col(by).fill_nan(None)))

    def _column(self, name: str) -> NDArray[np.float64]:
        values: NDArray[np.float64] = self._harvest.frame[name].to_numpy()
        return values[self._places]
