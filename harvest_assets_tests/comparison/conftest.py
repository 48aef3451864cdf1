"""The tiny run and dictionaries on its target, harvested from the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from harvest_assets.data.token_rows import TokenRows
from harvest_assets.files.layout import data_dir
from harvest_assets.store.shared_rows import SharedTokenRows
from harvest_assets_tests.comparison.by_formula import spd_fires
from harvest_assets_tests.decompositions.dictionaries.tiny_set import by_formula, write_set
from harvest_assets_tests.tiny_harvest import SETTINGS, TinyHarvest

N_ROWS = SETTINGS["n_batches"] * SETTINGS["batch_size"]
N_KEPT = 20  # rows whose firings are kept


@dataclass(frozen=True)
class Two:
    """Two harvests, and where their components fire by formulas: bool [rows, S, C]."""

    out: Path
    spd: TinyHarvest
    saes: TinyHarvest
    spd_fires: np.ndarray
    saes_fire: np.ndarray

    @property
    def names(self) -> tuple[str, str]:
        return self.spd.layout.root.name, self.saes.layout.root.name


@pytest.fixture(scope="package")
def harvested(tmp_path_factory: pytest.TempPathFactory) -> Two:
    folder = write_set(tmp_path_factory.mktemp("world"))
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("SPD_OUT_DIR", str(out))
        spd, saes = (TinyHarvest.of(instance, it) for it in (folder.parent / "tiny_run", folder))
        for each in (spd, saes):
            each.harvest(n_shards=1, keep_firings=N_KEPT)
        shared = SharedTokenRows.open(spd.layout.root)
        tokens = TokenRows.open(data_dir(shared.fingerprint)).rows(0, N_ROWS).numpy()
    activations, _ = by_formula(folder, tokens)
    return Two(out, spd, saes, spd_fires(folder.parent / "tiny_run", tokens), activations > 0)


@pytest.fixture
def two(harvested: Two, monkeypatch: pytest.MonkeyPatch) -> Two:
    """Both in `SPD_OUT_DIR`, without pairs that another test has counted."""
    monkeypatch.setenv("SPD_OUT_DIR", str(harvested.out))
    for each in (harvested.spd, harvested.saes):
        for file in each.layout.comparisons.glob("*"):
            file.unlink()
    return harvested
