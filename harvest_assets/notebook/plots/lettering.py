"""Texts as the fonts of this machine can draw them."""

from __future__ import annotations

from functools import cache

# In the order in which a character is looked for; the first comes with matplotlib.
_FAMILIES = (
    "DejaVu Sans",
    "Noto Sans",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Emoji",
    "Symbola",
    "Unifont",
    "Arial Unicode MS",
)
_MAX_CHARACTERS = 28


def families() -> list[str]:
    """Those of the families above that there are."""
    from matplotlib import font_manager

    known = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in _FAMILIES if name in known]


def drawable(text: str) -> str:
    """A text in which each character that no font has is its code point, `U+1F600`."""
    known = _characters()
    return "".join(c if ord(c) in known else f"U+{ord(c):04X}" for c in text)


def cut(text: str) -> str:
    """A drawable text of the length of a label."""
    shown = drawable(text)
    return shown if len(shown) <= _MAX_CHARACTERS else f"{shown[: _MAX_CHARACTERS - 1]}…"


@cache
def _characters() -> frozenset[int]:
    from matplotlib import font_manager

    found = (font_manager.findfont(name) for name in families())
    return frozenset().union(*(font_manager.get_font(path).get_charmap() for path in found))
