"""A harvest's folder without any interpretation."""

from __future__ import annotations

from pathlib import Path

import pytest

from harvest_assets.files.layout import HarvestLayout


@pytest.fixture
def paths(tmp_path: Path):
    root = tmp_path / "s-1"
    root.mkdir()
    return HarvestLayout(root)
