"""A figure with the numbers that it shows, saved as SVG, PDF or PNG."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harvest_assets.errors import HarvestError
from harvest_assets.suggestions import quoted

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Size = tuple[float, float]

# Legible for readers of any colour vision, and in grey: Okabe and Ito's blue and vermilion.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#6E7781"
SHADES = "Blues"
_FORMATS = ("svg", "pdf", "png")
_SCREEN_DPI = 160
_MAX_INCHES = 60
_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.size": 8,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # journals refuse Type 3 fonts
    "savefig.bbox": "standard",
    "svg.fonttype": "path",  # the same everywhere, whatever fonts there are
    "svg.hashsalt": "harvest_assets",
    "text.hinting": "none",  # widths are the same at every size
    "text.parse_math": False,  # a token may be `$x^2$`
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}


class Plot:
    """A figure; a notebook shows it.

    Args:
        figure: of matplotlib, to change anything: `plot.figure.axes[0].set_title("...")`.
        data: the numbers that it shows, a row for each bin, bar, cell or token.
    """

    def __init__(self, figure: Figure, data: pl.DataFrame) -> None:
        self.figure = figure
        self.data = data

    def save(self, path: str | Path, dpi: int = 300) -> Path:
        """Write the figure.

        Args:
            path: the file; its ending is `.svg`, `.pdf` or `.png`. An existing file is replaced.
            dpi: pixels per inch of a PNG.

        Raises:
            HarvestError: the ending is another.
        """
        file = Path(path).expanduser()
        kind = file.suffix[1:].lower()
        if kind not in _FORMATS:
            raise HarvestError(
                f"{quoted(os.fspath(path))} does not end in the name of a format; expected one of "
                f"{', '.join(f'.{it}' for it in _FORMATS)}."
            )
        file.write_bytes(self._drawn(kind, dpi))
        return file

    def _drawn(self, kind: str, dpi: int) -> bytes:
        # Without a date, the same figure is the same file.
        dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
        buffer = io.BytesIO()
        with style():
            self.figure.savefig(buffer, format=kind, dpi=dpi, metadata=dates.get(kind))
        return buffer.getvalue()

    def __repr__(self) -> str:
        width, height = self.figure.get_size_inches()
        return f"Plot of {width:.3g} x {height:.3g} inches; save it with .save('plot.svg')"

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = (int(96 * inches) for inches in self.figure.get_size_inches())
        return self._drawn("png", _SCREEN_DPI), {"width": width, "height": height}


@contextmanager
def style() -> Iterator[None]:
    """While the block runs, matplotlib draws in our style, whatever a user has set.

    Raises:
        HarvestError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise HarvestError(
            "Plots need matplotlib, which is not installed; run "
            "`pip install 'harvest_assets[plots]'`."
        ) from error
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def new_figure(size: Size) -> Figure:
    """An empty figure, to be drawn in `style`; it belongs to no window and no global state.

    Raises:
        HarvestError: its width and height cannot be those of a figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    try:
        width, height = map(float, size)
    except (TypeError, ValueError):
        width = height = 0.0
    if not (0 < width <= _MAX_INCHES and 0 < height <= _MAX_INCHES):
        raise HarvestError(
            f"size is {quoted(size)}; expected width and height in inches, at most {_MAX_INCHES}."
        )
    figure = Figure(figsize=(width, height), dpi=_SCREEN_DPI)
    FigureCanvasAgg(figure)
    return figure


def axes_of(size: Size) -> tuple[Figure, Axes]:
    """A figure with one pair of axes that fill it."""
    figure = new_figure(size)
    figure.set_layout_engine("constrained")
    return figure, figure.add_subplot()
