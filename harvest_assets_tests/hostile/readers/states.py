"""Readers of saved states."""

from __future__ import annotations

from pathlib import Path

from harvest_assets.files.records import FileDigest
from harvest_assets.harvester import HarvesterState
from harvest_assets.store.shards import StoredState
from harvest_assets_tests.files.sealed import change
from harvest_assets_tests.hostile.readers.of_harvest import OfHarvest
from harvest_assets_tests.hostile.readers.reader import put, put_sealed


class StateDescription(OfHarvest):
    """`state.json`, sealed."""

    @property
    def file(self) -> Path:
        return self.shard / "state" / "state.json"

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        state = HarvesterState.load(self.shard / "state")
        assert state.ci_sums.shape == (state.settings.n_components,)


class StateTensors(OfHarvest):
    """A tensor file of a state, described and sealed as it is."""

    NAMES = ("statistics", "sample", "highest_ci", "highest_activation")

    @property
    def file(self) -> Path:
        return self.shard / "state" / "sample.safetensors"

    def read(self, content: bytes) -> None:
        state = self.shard / "state"
        put(self.file, content)
        files = {f"{name}.safetensors" for name in self.NAMES}
        change(
            state / "state.json", files={name: vars(FileDigest.of(state / name)) for name in files}
        )
        opened = HarvesterState.load(state)
        for component in range(opened.settings.n_components):
            opened.examples(component)


class ShardDescription(OfHarvest):
    """`shard.json`, sealed."""

    @property
    def file(self) -> Path:
        return self.shard / "shard.json"

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        stored = StoredState.find(self.paths.shard_current("00"))
        assert stored is not None
        assert 0 <= stored.rows.start <= stored.rows.stop


class Pointer(OfHarvest):
    """`current.json`, sealed."""

    @property
    def file(self) -> Path:
        return self.paths.shard_current("00")

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        stored = StoredState.find(self.file)
        assert stored is not None
        assert stored.directory.parent == self.file.parent
        assert stored.directory.name not in ("", ".", "..", "saved")
