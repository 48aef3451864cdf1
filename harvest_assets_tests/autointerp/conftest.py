from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harvest_assets.autointerp.material import Material
from harvest_assets.files.layout import HarvestLayout
from harvest_assets_tests.autointerp.one_token_each import write_one_token_each


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> HarvestLayout:
    """The harvest of `one_token_each`; read only."""
    return write_one_token_each(tmp_path_factory.mktemp("finished") / "s-aaaaaaaa")


@pytest.fixture(scope="session")
def material(finished: HarvestLayout) -> Material:
    return Material(finished)


@pytest.fixture
def paths(out_dir: Path, finished: HarvestLayout) -> HarvestLayout:
    """A copy of the harvest in the `SPD_OUT_DIR` of this test."""
    root = out_dir / "harvest" / finished.root.name
    shutil.copytree(finished.root, root)
    return HarvestLayout(root)
