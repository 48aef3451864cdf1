"""Readers of `harvest.db`."""

from __future__ import annotations

import atexit
import shutil
from functools import cache
from pathlib import Path

import numpy as np

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.results.count_tensors import TokenStatsStorage
from harvest_assets.sharing import harvest_db
from harvest_assets.sharing.harvest_db_rows import HarvestDb
from harvest_assets_tests.faults.small_harvest import SmallHarvest
from harvest_assets_tests.hostile.readers.reader import Reader, put, scratch_folder


@cache
def _exported() -> Path:
    """The folder of a harvest in the newer form, made once a process."""
    folder = scratch_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    paths = HarvestLayout(folder / "x-aaaaaaaa")
    SmallHarvest(paths.root, n_batches=2, n_shards=1).run()
    scores = [("h.0.mlp:3", "intruder", 0.7, '{"n_trials": 10}')]
    return harvest_db.export(paths, folder / "out", scores, lambda *_: None).folder


class HarvestDatabase(Reader):
    """`harvest.db`, each row of it."""

    def seeds(self) -> list[bytes]:
        return [(_exported() / "harvest.db").read_bytes()]

    def read(self, content: bytes) -> None:
        tokens = TokenStatsStorage.load(_exported() / "token_stats.pt")
        path = put(self.folder / "harvest.db", content)
        with HarvestDb.opened(path) as db:
            settings, keys = db.settings, tokens.component_keys
            assert settings.window < 1 << 20
            for key, row_id in zip(keys, db.row_ids(keys), strict=True):
                if row_id is None:
                    continue
                row = db.component(key, row_id, tokens.n_tokens, tokens.vocab_size)
                assert np.isfinite([row.firing_density, row.mean_ci]).all()
                assert row.examples.token_ids.shape[1] == settings.window
                assert (row.examples.token_ids < tokens.vocab_size).all()
