"""Attacks made by hand: each is tried, and must be refused."""

from __future__ import annotations

from importlib import import_module

from harvest_assets_tests.hostile.attacks.registry import (
    ATTACKS,
    CRASHED,
    LET_IN,
    REFUSED,
    Attack,
    outcome,
)

__all__ = ["ATTACKS", "CRASHED", "LET_IN", "REFUSED", "Attack", "outcome"]

# Each puts its attacks on the list, in the order of the table in the docs.
for _name in (
    *("checkpoints", "configs", "data", "names", "harvest_files"),
    *("states", "tables", "rows", "links", "kept_files", "answers", "exports"),
):
    import_module(f"{__name__}.{_name}")
