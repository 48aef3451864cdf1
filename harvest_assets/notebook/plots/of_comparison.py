"""Figures of two harvests, compared."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from harvest_assets.comparison.comparison import Comparison
from harvest_assets.notebook.plots.axes import label_powers
from harvest_assets.notebook.plots.lettering import cut
from harvest_assets.notebook.plots.plot import BLUE, VERMILION, Plot, Size, axes_of, style
from harvest_assets.viewer.bins import density_bins_of, jaccard_shares

_SIZE = (5.5, 2.4)  # inches


class PlottedComparison(Comparison):
    """A comparison that has `plot`."""

    @classmethod
    def of(cls, found: Comparison) -> PlottedComparison:
        """The same comparison."""
        return cls(**{it.name: getattr(found, it.name) for it in fields(found)})

    @property
    def plot(self) -> ComparisonPlots:
        """Figures of both, drawn by matplotlib."""
        return ComparisonPlots(self)


@dataclass(frozen=True)
class ComparisonPlots:
    """Figures of a comparison, as `harvest.compare(other).plot`."""

    _found: Comparison

    def density(self, size: Size = _SIZE) -> Plot:
        """The components of both that fire, by how often, in the bins of the viewer's chart.

        Args:
            size: width and height in inches.

        Returns:
            Its data: harvest, density_from, density_to, components, share (of those that fire).
        """
        import polars as pl

        components = self._found.components
        names = components["harvest"].unique(maintain_order=True).to_list()
        bins = density_bins_of(
            {name: components.filter(harvest=name)["density"].to_numpy() for name in names}
        )
        with style():
            figure, axes = axes_of(size)
            colors = zip(bins.items(), ((BLUE, "-"), (VERMILION, "--")), strict=False)
            for (name, it), (color, dashes) in colors:
                edges = np.linspace(it.low, it.high, len(it.counts) + 1)
                label = f"{cut(name)} ({it.counts.sum():,})"
                axes.stairs(it.shares, edges, color=color, ls=dashes, lw=1.4, label=label)
                label_powers(axes, "x", it.low, it.high)
            axes.legend(loc="upper left")
            axes.set(xlabel="density: firings per token", ylabel="share of those that fire")
        rows = [
            (name, *it.edges(b), int(it.counts[b]), float(it.shares[b]))
            for name, it in bins.items()
            for b in range(len(it.counts))
        ]
        columns = ["harvest", "density_from", "density_to", "components", "share"]
        return Plot(figure, pl.DataFrame(rows, columns, orient="row"))

    def best_jaccard(self, size: Size = _SIZE) -> Plot:
        """The components of the first by the Jaccard index with their best match in the second.

        Args:
            size: width and height in inches.

        Returns:
            Its data: jaccard_from, jaccard_to, share (of the components that fired in the rows
            compared).
        """
        import polars as pl

        pairs = self._found.pairs
        found = [] if pairs is None else pairs.filter(pl.col("rank") == 1)["jaccard"].to_list()
        shares, edges = jaccard_shares(np.array(found))
        with style():
            figure, axes = axes_of(size)
            axes.bar(edges[:-1], shares, 0.92 * np.diff(edges), align="edge", color=BLUE)
            name = "Jaccard index with the best match"
            axes.set(xlim=(0, 1), xlabel=name, ylabel="share of components")
            axes.grid(visible=False, axis="x")
        data = {"jaccard_from": edges[:-1], "jaccard_to": edges[1:], "share": shares}
        return Plot(figure, pl.DataFrame(data))
