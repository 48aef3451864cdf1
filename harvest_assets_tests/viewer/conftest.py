"""A harvest of hostile tokens, and the application that shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets_tests.viewer.hostile import TEXTS
from harvest_assets_tests.viewer.synthetic import write_harvest

NAME = "hostile"
N_COMPONENTS = 120
N_EXAMPLES = 45


@pytest.fixture(scope="session")
def hostile_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An `SPD_OUT_DIR` with two harvests of hostile tokens."""
    out = tmp_path_factory.mktemp("hostile") / "out"
    for name, seed in ((NAME, 0), ("other", 7)):
        write_harvest(out / "harvest" / name, TEXTS, N_COMPONENTS, N_EXAMPLES, seed)
    return out


@pytest.fixture
def paths(hostile_out: Path, monkeypatch: pytest.MonkeyPatch) -> HarvestLayout:
    monkeypatch.setenv("SPD_OUT_DIR", str(hostile_out))
    return HarvestLayout.of(NAME)


@pytest.fixture
def client(paths: HarvestLayout) -> TestClient:
    return TestClient(make_app(Library(), paths.root.name), base_url="http://127.0.0.1:3100")
