from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from harvest_assets_tests.tiny_harvest import TinyHarvest
from harvest_assets_tests.tiny_run import write_world


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SPD run with random weights; read only."""
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def tiny(out_dir: Path, tiny_run: Path, instance: dg.DagsterInstance) -> TinyHarvest:  # noqa: ARG001
    """The tiny run, registered, in an empty `SPD_OUT_DIR`."""
    return TinyHarvest.of(instance, tiny_run)
