"""Texts as bytes, in lower case of the same length, so that offsets hold for both."""

from __future__ import annotations

# In no text: neither in UTF-8 nor in a query.
SEPARATOR = b"\xff"


def folded(text: bytes) -> bytes:
    """A text in lower case; characters whose lower case has another length stay as they are."""
    if text.isascii():
        return text.lower()
    characters = text.decode("utf-8", "surrogateescape")
    return b"".join(map(_folded, characters))


def _folded(character: str) -> bytes:
    one, lower = (c.encode("utf-8", "surrogateescape") for c in (character, character.lower()))
    return lower if len(lower) == len(one) else one
