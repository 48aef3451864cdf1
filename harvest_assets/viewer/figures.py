"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rich.filesize import decimal


def percent(value: float) -> str:
    """A share in percent; very small ones as a power."""
    if value == 0:
        return "0%"
    if value < 1e-5:  # noqa: PLR2004
        return f"{value:.1e}"
    digits = 1 if value >= 0.1 else 2 if value >= 0.001 else 3  # noqa: PLR2004
    return f"{100 * value:.{digits}f}%"


def short(value: float) -> str:
    """A number with two or three significant digits."""
    if value == 0:
        return "0"
    return f"{value:.2f}" if 0.01 <= abs(value) < 1000 else f"{value:.2g}"  # noqa: PLR2004


def interval(low: float, high: float) -> str:
    """An interval, with enough digits to tell its ends apart."""
    if high <= low:
        return short(low)
    digits = min(12, max(0, 1 - math.floor(math.log10(high - low))))
    return f"{low:.{digits}f} to {high:.{digits}f}"


def count(value: float) -> str:
    """A count with commas; sums of probabilities with a decimal where they are small."""
    return f"{value:,.0f}" if float(value).is_integer() or value >= 100 else f"{value:,.1f}"  # noqa: PLR2004


def one_in(density: float) -> str:
    """A density as the number of tokens for one firing."""
    return f"1 in {1 / density:,.0f} tokens" if density else "never"


def bar_width(value: float, highest: float = 1.0) -> int:
    """The width of a bar from 0 to 100."""
    return max(1, min(100, round(100 * value / highest))) if value and highest else 0


def log_width(density: float) -> int:
    """The width of a bar from 0 to 100, logarithmic from 1e-6 to 1."""
    return max(1, round(100 + 100 * math.log10(density) / 6)) if density > 1e-6 else 0  # noqa: PLR2004


def known(value: float | None, show: str) -> str:
    """A number as the filter `show` writes it; a dash where it is not known."""
    return "\N{EN DASH}" if value is None else str(FILTERS[show](value))


FILTERS: dict[str, Callable[..., Any]] = {
    "percent": percent,
    "short": short,
    "interval": interval,
    "count": count,
    "size": decimal,
    "one_in": one_in,
    "bar_width": bar_width,
    "log_width": log_width,
    "general": "{:g}".format,
    "known": known,
}
