"""Components that never fired take no room in the files, and are counted as before."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from harvest_assets.files.commit import publish_files
from harvest_assets.files.filesystems import keeps_holes
from harvest_assets.files.hashed_file import HashedFile
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.harvester.counters import mirror
from harvest_assets.harvester.state_sum import StateSum
from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage
from harvest_assets.results.merge import MergedCorrelations, MergedTokenStats, scratch
from harvest_assets.store.compaction import CompactedState
from harvest_assets.store.shards import STATE_FOLDER
from harvest_assets_tests import oracle
from harvest_assets_tests.harvester.rows import Setup, harvest, random_rows

SETUP = Setup((("a", 1000), ("b", 500)), 4000, k=3, side=1)
FIRED = [3, 4, 700, 1499]


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_silent_components_are_holes_in_all_files(tmp_path: Path):
    few = replace(SETUP, layers=(("a", len(FIRED)),))
    rows = random_rows(np.random.default_rng(0), few, 6, 5, 0.4)
    ci = np.zeros((6, 5, SETUP.n_components), np.float32)
    ci[..., FIRED] = rows.ci
    rows = replace(rows, ci=ci, acts=np.broadcast_to(rows.acts[..., :1], ci.shape))
    states = [harvest(SETUP, rows.part(0, 2)), harvest(SETUP, rows.part(2, 6), 2)]
    total, paths = StateSum(states), HarvestLayout(tmp_path / "harvest")
    for value in (MergedCorrelations(total, ""), MergedTokenStats(total, "")):
        publish_files(paths, value)
    (tmp_path / "merged").mkdir()
    CompactedState(total, "", "", range(6)).write(tmp_path / "merged")

    truth = oracle.statistics(rows.tokens, rows.ci, rows.probs, SETUP.ci_threshold)
    counts = CorrelationStorage.load(paths.component_correlations)
    assert counts.count_i.nonzero().squeeze(1).tolist() == FIRED
    assert torch.equal(counts.cofirings(), torch.from_numpy(truth.count_ij))
    tokens = TokenStatsStorage.load(paths.token_stats)
    assert torch.equal(tokens.input_counts, torch.from_numpy(truth.input_token_counts))
    np.testing.assert_allclose(tokens.output_counts, truth.output_token_prob_mass, rtol=1e-6)
    files = (
        paths.component_correlations,
        paths.token_stats,
        tmp_path / "merged" / STATE_FOLDER / "statistics.safetensors",
    )
    if on_disk(files[0]) >= files[0].stat().st_size:
        pytest.skip("this file system has no holes")
    assert all(on_disk(file) < file.stat().st_size / 20 for file in files)


def test_only_what_will_be_filled_is_reserved(tmp_path: Path):
    if not keeps_holes(tmp_path):
        pytest.skip("this file system has no holes")
    place, shape = tmp_path / "scratch", (1000, 5000)
    with scratch(place, shape, torch.int64, [slice(2, 4), slice(900, 901)]) as matrix:
        assert matrix.shape == shape
        assert not matrix.any()
        assert on_disk(place) < place.stat().st_size / 20
    with scratch(place, shape, torch.int64):
        assert on_disk(place) >= place.stat().st_size
    assert not place.exists()


def test_in_memory_nothing_is_a_hole():
    memory = Path("/dev/shm")  # noqa: S108
    if keeps_holes(memory) or not os.access(memory, os.W_OK):
        pytest.skip("there is no file system in memory")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        place = Path(folder) / "scratch"
        with scratch(place, (100, 5000), torch.int64, [slice(2, 4)]):
            assert on_disk(place) >= place.stat().st_size
        content = bytes(1 << 20)
        with HashedFile(place) as file:
            file.write(content)
        assert on_disk(place) >= len(content)
        assert file.digest.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_the_mirror_image_needs_only_the_rows_that_are_filled(density: float):
    filled = torch.rand(50, generator=torch.Generator().manual_seed(0)) < density
    upper = torch.triu(torch.randint(1, 9, (50, 50))) * filled * filled[:, None]
    matrix = upper.clone()
    mirror(matrix, filled, block=4)
    assert torch.equal(matrix, upper + upper.triu(1).T)
