"""Charts as SVG text: for the pages of the viewer, and as images in Dagster's metadata.

Shapes have classes and no colours of their own: a page's style sheet colours them, `as_image` adds
colours to a chart used by itself. All text is escaped.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harvest_assets.errors import counted
from harvest_assets.schemas import ci_bin_edges
from harvest_assets.viewer.bins import (
    ci_density_cells,
    density_bins,
    density_bins_of,
    jaccard_shares,
)
from harvest_assets.viewer.words import SPD, Words

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 44
_MAX_TICKS = 7
_SMALL_WIDTH, _SMALL_BINS, _MAX_SMALL_BARS = 360, 30, 36
_HEAT_LEVELS = 6
# Legible on white and on black: an image does not know its background.
_STYLE = """
text{font:12px system-ui,sans-serif;fill:#7d8590}
.axis{stroke:#7d8590}.grid{stroke:#7d8590;opacity:.25}
.bar,.heat{fill:#3f83f0}.faint{fill:#7d8590;opacity:.4}
.heat1{opacity:.28}.heat2{opacity:.42}.heat3{opacity:.56}.heat4{opacity:.7}.heat5{opacity:.85}
"""


@dataclass
class _Canvas:
    """An SVG being drawn; x and y map values in [0, 1] to its plot area."""

    width: int
    height: int
    label: str
    left: int = _LEFT
    parts: list[str] = field(default_factory=list)

    def x(self, share: float) -> float:
        """The x coordinate of a share of the width of the plot area."""
        return round(self.left + share * (self.width - self.left - _RIGHT), 2)

    def y(self, share: float) -> float:
        """The y coordinate of a share of its height, from the bottom."""
        return round(self.height - _BOTTOM - share * (self.height - _TOP - _BOTTOM), 2)

    def rect(self, kind: str, box: tuple[float, float, float, float], title: str) -> str:
        """A rectangle between two corners, in shares of the plot area."""
        x0, y0, x1, y1 = self.x(box[0]), self.y(box[1]), self.x(box[2]), self.y(box[3])
        return (
            f'<rect class="{kind}" x="{x0}" y="{y1}" width="{max(0.5, x1 - x0):.2f}" '
            f'height="{max(0.5, y0 - y1):.2f}"><title>{escape(title)}</title></rect>'
        )

    def text(self, x: float, y: float, text: str, anchor: str = "middle") -> None:
        """Text at a point of the SVG."""
        self.parts.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>')

    def x_axis(self, ticks: Sequence[tuple[float, str]], name: str) -> None:
        """The x axis with its ticks, at shares of the width."""
        bottom = self.y(0)
        for share, label in ticks:
            self.parts.append(_line("grid", self.x(share), bottom, self.x(share), self.y(1)))
            self.text(self.x(share), bottom + 17, label)
        self.parts.append(_line("axis", self.x(0), bottom, self.x(1), bottom))
        self.text(self.x(0.5), self.height - 5, name)

    def y_axis(self, ticks: Sequence[tuple[float, str]]) -> None:
        """The y axis with its ticks, at shares of the height."""
        for share, label in ticks:
            self.parts.append(_line("grid", self.x(0), self.y(share), self.x(1), self.y(share)))
            self.text(self.left - 6, self.y(share) + 4, label, "end")

    def svg(self) -> str:
        """The SVG as text."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" '
            f'viewBox="0 0 {self.width} {self.height}" aria-label="{escape(self.label)}">'
            f"{''.join(self.parts)}</svg>"
        )


def _line(kind: str, x0: float, y0: float, x1: float, y1: float) -> str:
    return f'<line class="{kind}" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}"/>'


def linked(shape: str, address: str | None) -> str:
    """A shape as a link, skipped by the keyboard, which has other ways to get there."""
    return f'<a tabindex="-1" href="{escape(address)}">{shape}</a>' if address else shape


def as_image(svg: str, text: str) -> str:
    """A chart as a Markdown image with its data inline."""
    return f"![{text}]({data_address(svg)})"


def data_address(svg: str) -> str:
    """The address of an image that holds a chart with its style."""
    if "class=" in svg:
        svg = svg.replace(">", f"><style>{_STYLE}</style>", 1)
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def density_histogram(
    density: NDArray[np.float64], address: Callable[[float, float], str] | None = None
) -> str:
    """The number of components by how often they fire, on a logarithmic axis.

    Args:
        density: firings per token of each component; components with 0 are left out.
        address: the link of a bar, by its lowest and highest density.
    """
    canvas = _Canvas(560, 240, "Histogram of firing density")
    bins = density_bins(density)
    n_bins, highest = len(bins.counts), _nice_ceiling(int(bins.counts.max(initial=1)))
    canvas.x_axis(list(decades(bins.low, bins.high)), "density: firings per token")
    canvas.y_axis([(share, f"{highest * share:,.0f}") for share in (0.5, 1.0)])
    for b, count in enumerate(bins.counts.tolist()):
        if count:
            start, stop = bins.edges(b)
            fire = "component fires" if count == 1 else "components fire"
            title = f"{count:,} {fire} on {_percent(start)} to {_percent(stop)} of tokens"
            box = (b / n_bins, 0, (b + 0.92) / n_bins, count / highest)
            bar = canvas.rect("bar", box, title)
            canvas.parts.append(linked(bar, address and address(start, stop)))
    return canvas.svg()


def density_histograms(densities: Mapping[str, NDArray[np.float64]]) -> str:
    """The components of several harvests by how often they fire, as shares of those that fire.

    Args:
        densities: firings per token of each component, by the name of the harvest; bars of the
            second have the class `other`.
    """
    bins = density_bins_of(densities)
    canvas = _Canvas(560, 240, f"Histograms of firing density: {' and '.join(densities)}")
    first = next(iter(bins.values()))
    canvas.x_axis(list(decades(first.low, first.high)), "density: firings per token")
    shares = {name: it.shares.tolist() for name, it in bins.items()}
    edges = [first.edges(b) for b in range(len(first.counts))]
    names = [f"{_percent(a)} to {_percent(b)} of tokens" for a, b in edges]
    _side_by_side(canvas, shares, names)
    return canvas.svg()


def best_jaccard_histogram(name: str, best: NDArray[np.float64]) -> str:
    """The components of a harvest by the Jaccard index with their best match, from 0 to 1."""
    canvas = _Canvas(560, 240, "Histogram of the Jaccard index with the best match")
    canvas.x_axis([(k / 5, f"{k / 5:g}") for k in range(6)], "Jaccard index with the best match")
    shares, edges = jaccard_shares(best)
    names = [f"{a:.2f} to {b:.2f}" for a, b in pairwise(edges.tolist())]
    _side_by_side(canvas, {name: shares.tolist()}, names)
    return canvas.svg()


def _side_by_side(canvas: _Canvas, shares: Mapping[str, list[float]], bins: list[str]) -> None:
    """Bars of several series in each bin, and the y axis of their shares."""
    highest = max((share for series in shares.values() for share in series), default=0) or 1
    canvas.y_axis([(k, f"{highest * k:.0%}") for k in (0.5, 1.0)])
    width = 0.92 / max(1, len(shares))
    for number, (name, series) in enumerate(shares.items()):
        for b, share in enumerate(series):
            if share:
                left = b + number * width
                box = (left / len(bins), 0, (left + width) / len(bins), share / highest)
                kind = "bar other" if number else "bar"
                title = f"{name}: {_percent(share)} of components, {bins[b]}"
                canvas.parts.append(canvas.rect(kind, box, title))


def ci_against_density(
    density: NDArray[np.float64],
    mean_ci: NDArray[np.float64],
    address: Callable[[float, float], str] | None = None,
    words: Words = SPD,
) -> str:
    """The number of components by density and mean CI, both logarithmic, as shaded cells.

    Args:
        density: firings per token of each component.
        mean_ci: over all positions, of each component.
        address: the link of a cell, by its lowest and highest density.
        words: what the values are called.
    """
    canvas = _Canvas(560, 240, f"Mean {words.long} against firing density")
    cells = ci_density_cells(density, mean_ci)
    canvas.x_axis(list(decades(*cells.x_ends)), "density")
    canvas.y_axis(list(decades(*cells.y_ends)))
    canvas.text(canvas.left + 6, _TOP + 10, f"mean {words.short}", "start")
    n_x, n_y = cells.counts.shape
    highest = math.log1p(int(cells.counts.max(initial=1)))
    for column, row in np.argwhere(cells.counts).tolist():
        count = int(cells.counts[column, row])
        level = math.ceil(_HEAT_LEVELS * math.log1p(count) / highest)
        start, stop = cells.x_edges(column)
        mean = math.sqrt(math.prod(cells.y_edges(row)))
        components = counted(count, "component")
        title = f"{components}: density about {_percent(start)}, mean {words.short} {mean:.1g}"
        box = (column / n_x, row / n_y, (column + 1) / n_x, (row + 1) / n_y)
        shape = canvas.rect(f"heat heat{level}", box, title)
        canvas.parts.append(linked(shape, address and address(start, stop)))
    return canvas.svg()


def ci_histogram(counts: NDArray[np.int64], words: Words = SPD) -> str:
    """The 64 bins of one component's causal importances, see `ci_bin_edges`."""
    canvas = _Canvas(560, 170, f"Histogram of {words.long}")
    edges = ci_bin_edges(len(counts))
    total, highest = int(counts.sum()), max(1, int(counts.max()))
    n = len(counts)
    ticks = [((1 + k * 62 / 6) / n, _power(k - 6)) for k in range(6)]
    canvas.x_axis([*ticks, ((n - 1) / n, "1")], f"{words.long} where it fires")
    canvas.y_axis([(1.0, f"{highest / max(1, total):.0%}")])
    for b, count in enumerate(counts.tolist()):
        if count:
            start = "0" if b == 0 else f"{edges[b - 1]:.2g}"
            stop = "more" if b == n - 1 else f"{edges[b]:.2g}"
            firings = counted(count, "firing")
            title = f"{words.short} {start} to {stop}: {firings} ({_percent(count / total)})"
            box = (b / n, 0, (b + 0.92) / n, count / highest)
            canvas.parts.append(canvas.rect("bar", box, title))
    return canvas.svg()


def layer_colour(place: int, n: int) -> str:
    """The colour of the n-th of some layers, on light and dark paper; neighbours differ."""
    return f"hsl({round(360 * place / max(1, n))} 65% {50 + 12 * (place % 2)}%)"


def neighbour_graph(
    keys: Sequence[str],
    colours: Sequence[str],
    jaccard: NDArray[np.float64],
    address: Callable[[str], str],
) -> str:
    """A component in the middle of those that it fires with; thicker lines are nearer pairs.

    Of the pairs of neighbours, only the nearest have a line.

    Args:
        keys: of the component and its n neighbours.
        colours: of each.
        jaccard: float64 [n + 1, n + 1], of each pair.
        address: the link of a component, by its key.
    """
    canvas, n = _Canvas(640, 320, f"The nearest neighbours of {keys[0]}"), len(keys) - 1
    angles = 2 * np.pi * (np.arange(n) + 0.5) / n - np.pi / 2
    x = np.append(320, np.round(320 + 140 * np.cos(angles), 1))
    y = np.append(160, np.round(160 + 130 * np.sin(angles), 1))
    highest = float(jaccard.max())
    pairs = [pair for pair in combinations(range(1, n + 1), 2) if jaccard[pair] > 0]
    pairs.sort(key=lambda pair: -float(jaccard[pair]))
    for i, j in [*pairs[: 2 * n][::-1], *((0, i) for i in range(1, n + 1))]:
        level = math.ceil(_HEAT_LEVELS * float(jaccard[i, j]) / highest)
        kind = f"edge edge{level}{' own' if i == 0 else ''}"
        title = f"<title>{escape(f'{keys[i]} and {keys[j]}: Jaccard {jaccard[i, j]:.2f}')}</title>"
        line = _line(kind, x[i], y[i], x[j], y[j])
        canvas.parts.append(line.replace("/>", f">{title}</line>"))
    for i, (key, colour) in enumerate(zip(keys, colours, strict=True)):
        near = f"{key}: Jaccard {jaccard[0, i]:.2f}" if i else key
        node = (
            f'<circle class="node" cx="{x[i]}" cy="{y[i]}" r="{6 if i else 9}" fill="{colour}">'
            f"<title>{escape(near)}</title></circle>"
        )
        canvas.parts.append(linked(node, address(key) if i else None))
        if i:
            right = x[i] > x[0]
            side, anchor = (x[i] + 11, "start") if right else (x[i] - 11, "end")
            canvas.text(side, y[i] + 4, _short(key, 22), anchor)
    return canvas.svg()


def layer_bars(rows: Sequence[tuple[str, float, str]], name: str) -> str:
    """A bar for each layer, given its name, its value, and the value as text."""
    widest = max((len(layer) for layer, _, _ in rows), default=1)
    left = min(260, 12 + 7 * widest)
    canvas = _Canvas(620, _TOP + _BOTTOM + 22 * max(1, len(rows)), name, left)
    highest = max((value for _, value, _ in rows), default=0) or 1
    for place, (layer, value, shown) in enumerate(rows):
        top = 1 - place / len(rows)
        bottom = top - 0.75 / len(rows)
        middle = canvas.y(bottom) - 4
        canvas.text(left - 6, middle, _short(layer, 36), "end")
        share = 0.8 * value / highest
        title = f"{layer}: {shown}"
        canvas.parts.append(canvas.rect("bar", (0, bottom, share, top), title))
        canvas.text(canvas.x(share) + 6, middle, shown, "start")
    canvas.x_axis([], name)
    return canvas.svg()


def small_density_histogram(density: NDArray[np.float64]) -> str:
    """`density_histogram` as a short SVG, without links."""
    bins = density_bins(density, _SMALL_BINS)
    return small_bars(bins.counts.tolist(), [(0.0, _power(bins.low)), (1.0, "1")])


def small_bars(values: Sequence[float], labels: Sequence[tuple[float, str]]) -> str:
    """Bars side by side as a short SVG: Dagster collapses Markdown of a thousand characters.

    Args:
        values: the heights; neighbours of more than 36 are summed.
        labels: the texts below the bars, at shares of the width.
    """
    together = -(-len(values) // _MAX_SMALL_BARS)
    heights = [sum(values[i : i + together]) for i in range(0, len(values), together or 1)]
    highest = max(heights, default=0) or 1
    width = max(1, _SMALL_WIDTH // max(1, len(heights)))
    path = "".join(f"v-{h}h{width - 1}v{h}h1" for h in (round(60 * v / highest) for v in heights))
    total = width * len(heights)
    texts = "".join(
        f'<text x="{round(share * total)}" y="76" text-anchor="{_anchor(share)}">'
        f"{escape(_short(label, 20))}</text>"
        for share, label in labels
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="80" font-size="11" '
        f'font-family="sans-serif" fill="#7d8590"><path fill="#3f83f0" d="M0 62{path}z"/>'
        f"{texts}</svg>"
    )


def _anchor(share: float) -> str:
    return "start" if share == 0 else "end" if share == 1 else "middle"


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else "…" + text[1 - limit :]


def decades(low: int, high: int) -> Iterator[tuple[float, str]]:
    """The powers of ten on an axis between two of them, with their shares of its length."""
    step = 1 if high - low <= _MAX_TICKS else 2
    for power in range(high, low - 1, -step):
        yield (power - low) / (high - low), _power(power)


def _power(power: int) -> str:
    if power == 0:
        return "1"
    return "10" + "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(c)] if c != "-" else "⁻" for c in str(power))


def _percent(share: float) -> str:
    return f"{share:.2%}" if share >= 0.0001 else f"{share:.1e}"  # noqa: PLR2004


def _nice_ceiling(value: int) -> Any:
    """The next of 2, 4, 6, 10, 20, 40, ..., of which half is a whole number."""
    power = 10 ** max(0, math.floor(math.log10(max(1, value))))
    return next(m * power for m in (2, 4, 6, 10, 20) if m * power >= value)
