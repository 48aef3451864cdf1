"""Contexts of a component as lines of shaded tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harvest_assets.notebook.plots.lettering import cut, families
from harvest_assets.notebook.plots.plot import GREY, Size, new_figure
from harvest_assets.viewer.examples import SHADES, ShownExample, ShownPlace
from harvest_assets.viewer.figures import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _LINE, _LEGEND, _MARGIN = 5.5, 13.0, 16.0, 3.0  # inches; points
_FONT = 7.0
_MIDDLE = 0.5  # where firing tokens begin, as a share of the width
_HEAT, _COLD = (0.835, 0.369, 0.0), (0.0, 0.447, 0.698)
_MAX_OPACITY = 0.75  # black text is legible on it
_MORE, _BEGIN, _END = "…", "⊢", "⊣"


@dataclass
class _Line:
    """The line that is being drawn; coordinates are in points from the lower left."""

    axes: Axes
    width: float
    y: float

    def right_of(self, x: float, places: Iterable[ShownPlace], mark: str) -> None:
        """Draw tokens from a point to the right edge, then a mark."""
        limit = self.width - _MARGIN - self.measure(_MORE)
        for place in places:
            end = x + self.measure(_text(place))
            if end > limit:
                mark = _MORE
                break
            self.token(x, end, place)
            x = end
        self.mark(x, mark, "left")

    def left_of(self, x: float, places: Sequence[ShownPlace], mark: str) -> None:
        """Draw tokens from a point to the left edge, then a mark."""
        limit = _MARGIN + self.measure(_MORE)
        for place in reversed(places):
            begin = x - self.measure(_text(place))
            if begin < limit:
                mark = _MORE
                break
            self.token(begin, x, place)
            x = begin
        self.mark(x, mark, "right")

    def token(self, x: float, end: float, place: ShownPlace) -> None:
        """Draw a token on its shade, in a frame if it is the firing one."""
        from matplotlib.patches import Rectangle

        box = ((x, self.y - 0.27 * _LINE), end - x, 0.9 * _LINE)
        if place.shade:
            color = (*(_COLD if place.negative else _HEAT), _MAX_OPACITY * place.shade / SHADES)
            self.axes.add_patch(Rectangle(*box, facecolor=color, edgecolor="none"))
        if place.fires:
            self.axes.add_patch(Rectangle(*box, facecolor="none", edgecolor="black", lw=0.6))
        self.text(x, _text(place), "black", "left")

    def mark(self, x: float, text: str, align: str) -> None:
        """Draw a sign that belongs to no token."""
        self.text(x, text, GREY, align)

    def text(self, x: float, text: str, color: str, align: str) -> None:
        """Draw text."""
        if text:
            font: dict[str, Any] = {"fontsize": _FONT, "family": families()}
            self.axes.text(x, self.y, text, color=color, ha=align, va="baseline", **font)

    def measure(self, text: str) -> float:
        """The width of a text with its blanks."""
        return _extent(f"|{text}|") - _extent("||") if text else 0.0


def draw_contexts(
    examples: Sequence[ShownExample], size: Size | None, name: str, scale: float, *, negative: bool
) -> Figure:
    """Draw examples, and below them the scale of the shades.

    Args:
        examples: from the top.
        size: width and height in inches.
        name: of the value that shades tokens.
        scale: the value of the deepest shade.
        negative: whether there are negative values.
    """
    needed = (len(examples) * _LINE + _LEGEND + 2 * _MARGIN) / 72
    figure = new_figure(size or (_WIDTH, needed))
    width, height = (72 * inches for inches in figure.get_size_inches())
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(0, height))
    for i, example in enumerate(examples):
        line = _Line(axes, width, height - _MARGIN - (i + 0.75) * _LINE)
        if line.y < _LEGEND:
            break
        line.left_of(_MIDDLE * width, example.left, _BEGIN if example.begins else "")
        firing_and_right = [example.firing, *example.right]
        line.right_of(_MIDDLE * width, firing_and_right, _END if example.ends else "")
    _legend(_Line(axes, width, _MARGIN + 0.3 * _LINE), cut(name), scale, negative=negative)
    return figure


def _legend(line: _Line, name: str, scale: float, *, negative: bool) -> None:
    from matplotlib.patches import Rectangle

    x = line.width - _MARGIN - line.measure(short(scale))
    line.text(x, short(scale), GREY, "left")
    steps = range(-SHADES if negative else 0, SHADES + 1)
    edge = 3.5
    x -= 3 + edge * len(steps)
    for i, step in enumerate(steps):
        color = (*(_COLD if step < 0 else _HEAT), _MAX_OPACITY * abs(step) / SHADES)
        box = Rectangle((x + i * edge, line.y - 1), edge, 6, facecolor=color, edgecolor="none")
        line.axes.add_patch(box)
    line.text(x - 3, f"{name}  {short(-scale) if negative else 0}", GREY, "right")


def _text(place: ShownPlace) -> str:
    return cut(place.token.text)


def _extent(text: str) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=families(), size=_FONT)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])
