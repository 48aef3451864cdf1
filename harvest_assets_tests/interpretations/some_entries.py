"""Labels and scores with few words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from harvest_assets.interpretations.entries import Label, Score, sha256_of_text

START = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = ("h.0.mlp:1", "h.0.mlp:2", "h.1.attn:3")


def at(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


def label(key: str, text: str, minute: int = 0, source: str = "model", **more) -> Label:
    values = {"confidence": 0.5, "reason": "seen", "author": "m", **more}
    return Label(key, text, source=source, written_at=at(minute), **values)


def score(key: str, method: str, value: float, minute: int = 0, of: str | None = None) -> Score:
    digest = None if of is None else sha256_of_text(of)
    values = (value, 0.1, 0.9, 0.2, 10, 1, "m")
    return Score(key, method, *values, label_sha256=digest, written_at=at(minute))
