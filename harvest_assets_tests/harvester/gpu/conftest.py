from __future__ import annotations

import pytest

from harvest_assets_tests.harvester.gpu import DEVICE


@pytest.fixture(autouse=True)
def blocks_for_the_interpreter(monkeypatch: pytest.MonkeyPatch):
    """Fewer steps, which each take as long whatever their size."""
    if DEVICE == "cpu":
        passes = pytest.importorskip("harvest_assets.harvester.gpu.passes")
        monkeypatch.setattr(passes, "_BFLOAT16_BLOCK", (64, 64))
        monkeypatch.setattr(passes, "_FLOAT32_BLOCK", (32, 256))
