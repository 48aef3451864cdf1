from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harvest_assets_tests.orchestration.slurm import one_node
from harvest_assets_tests.tiny_run import write_world


@pytest.fixture(scope="session")
def slurm() -> Iterator[one_node.OneNode]:
    """A real SLURM of one node with two pretended GPUs."""
    reason = one_node.missing()
    if reason:
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    slurm = one_node.OneNode(folder)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def node(slurm: one_node.OneNode) -> Iterator[one_node.OneNode]:
    """The real SLURM, without jobs before and after the test."""
    yield slurm
    slurm.cancel_all()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))
