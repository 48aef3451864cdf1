"""Readers of one file of a harvest that is whole otherwise."""

from __future__ import annotations

import atexit
import shutil
from functools import cache
from pathlib import Path

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.store.shards import StoredState
from harvest_assets_tests.faults.small_harvest import SmallHarvest
from harvest_assets_tests.hostile.readers.reader import Reader, scratch_folder


@cache
def whole_harvest() -> Path:
    """A small harvest, made once a process."""
    folder = scratch_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    harvest = SmallHarvest(folder / "harvest", n_shards=1)
    harvest.run("all")
    return harvest.root


class OfHarvest(Reader):
    """Reads a file of a harvest that is whole otherwise."""

    FILE = ""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.paths = HarvestLayout(folder / "harvest" / "x-aaaaaaaa")
        shutil.copytree(whole_harvest(), self.paths.root)
        self.shard = StoredState.find(self.paths.shard_current("00")).directory

    @property
    def file(self) -> Path:
        """The one that is replaced."""
        return self.paths.root / self.FILE

    def seeds(self) -> list[bytes]:
        return [self.file.read_bytes()]
