"""Readers of kept firings, and of what was computed from whole harvests."""

from __future__ import annotations

import atexit
import json
import os
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from harvest_assets.comparison import stored_pairs
from harvest_assets.comparison.opened import OpenedHarvest
from harvest_assets.comparison.stored_pairs import COLUMNS, PairsOf
from harvest_assets.files.layout import HarvestLayout, viewer_cache_root
from harvest_assets.results.firings import KeptFirings, impossible_firings
from harvest_assets.viewer.component_map.points import COLOURS, points
from harvest_assets.viewer.contexts.search import ContextIndex
from harvest_assets.viewer.derived import Kind, compute, folder_of
from harvest_assets.viewer.library import Library
from harvest_assets_tests.faults.small_harvest import LAYERS, N_CTX, N_ROWS, SmallHarvest
from harvest_assets_tests.hostile.readers.of_harvest import OfHarvest
from harvest_assets_tests.hostile.readers.reader import Reader, put, scratch_folder
from harvest_assets_tests.viewer.synthetic import write_harvest


@cache
def _with_firings() -> Path:
    """A small harvest that keeps its firings, made once a process."""
    folder = scratch_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    harvest = SmallHarvest(folder / "harvest", n_shards=1, keep_firings=-1)
    harvest.run("none")
    return harvest.root


class Firings(Reader):
    """`firings.safetensors`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.paths = HarvestLayout(folder / "x-aaaaaaaa")
        shutil.copytree(_with_firings(), self.paths.root)
        self._seed = self.paths.firings.read_bytes()

    def seeds(self) -> list[bytes]:
        small = {
            "row_offsets": np.array([0, 1, 3], np.int64),
            "position": np.array([2, 0, 1], np.int32),
            "component": np.array([0, 1, 0], np.int32),
            "ci": np.array([0.5, 0.25, 1.0], np.float32),
        }
        save_file(small, self.folder / "small")
        return [self._seed, (self.folder / "small").read_bytes()]

    def read(self, content: bytes) -> None:
        put(self.paths.firings, content)
        kept = KeptFirings.open(self.paths)
        n = sum(c for _, c in LAYERS)
        problems = impossible_firings(kept, np.full(n, 10**6), N_ROWS * N_CTX, 1e-6)
        assert all(isinstance(problem, str) for problem in problems)
        for block in kept.blocks(7):
            assert len(block.row) == len(block.act) == len(block.component)
            assert (block.position < N_CTX).all()
            assert (block.component >= 0).all()


class Pairs(OfHarvest):
    """The pairs of a comparison."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._opened = OpenedHarvest.of(self.paths)

    @property
    def file(self) -> Path:
        return self.paths.comparisons / f"{self.paths.root.name}.parquet"

    def seeds(self) -> list[bytes]:
        keys = self._opened.frame["component_key"].to_list()
        rows = [(a, b, 1, 9, 8, 4, 0.3, 0.4, 0.5, True) for a, b in zip(keys, keys[::-1])]  # noqa: B905
        frame = pl.DataFrame(rows[:3], schema=list(COLUMNS), orient="row")
        of = PairsOf(n_rows=4, n_tokens=64, top=3, source="kept firings")
        stored_pairs.store(self._opened, self._opened, of, frame)
        return [self.file.read_bytes()]

    def read(self, content: bytes) -> None:
        self.file.parent.mkdir(exist_ok=True)
        put(self.file, content)
        found = stored_pairs.find(self._opened, self._opened)
        if found is not None:
            of, pairs = found
            assert of.n_rows > 0
            assert of.top > 0
            json.dumps(pairs.to_dicts(), allow_nan=False)


class _Derived(Reader):
    """One of the files of a folder that was computed; the first byte chooses it."""

    KIND: Kind
    FILES: tuple[str, ...]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        os.environ["SPD_OUT_DIR"] = str(folder)
        write_harvest(folder / "harvest" / "small", [f"t{i}" for i in range(32)], 40, 3)
        self.harvest = Library().get("small")
        self.cached = folder_of(viewer_cache_root(), self.harvest, self.KIND)
        compute(self.harvest, self.KIND, self.cached, lambda _: None)
        self._good = {name: (self.cached / name).read_bytes() for name in self.FILES}

    def seeds(self) -> list[bytes]:
        return [bytes([i]) + self._good[name] for i, name in enumerate(self.FILES)]

    def read(self, content: bytes) -> None:
        name = self.FILES[content[0] % len(self.FILES)] if content else self.FILES[0]
        put(self.cached / name, content[1:])
        try:
            self.look()
        finally:
            put(self.cached / name, self._good[name])

    def look(self) -> None:
        """Answer what pages ask."""
        raise NotImplementedError


class MapFiles(_Derived):
    """The places of the map."""

    KIND = "map"
    FILES = ("places.npy", "xy.npy")

    def look(self) -> None:
        for colour in COLOURS:
            found = points(self.harvest, self.cached, colour)
            json.dumps([found.x, found.y, found.group, found.keys], allow_nan=False)
            assert all(0 <= it <= 1 for it in found.x + found.y)
            assert len(set(found.keys)) == len(found.keys)


class ContextFiles(_Derived):
    """The index of contexts."""

    KIND = "contexts"
    FILES = (
        *("tokens.npy", "starts.npy", "fragments.npy"),
        *("firing_place.npy", "firing_component.npy", "firing_ci.npy"),
        *("about.json", "text.bin", "folded.bin"),
    )

    def look(self) -> None:
        index = ContextIndex.open(self.cached)
        for query, case in (("T11t", False), ('"t2"', True), ("17", True)):
            found = index.search(self.harvest, query, case=case)
            assert found.n <= 1001
            for hit in found.hits:
                json.dumps([hit.texts, hit.row, hit.position], allow_nan=False)
                json.dumps([vars(it) for it in hit.components], allow_nan=False)
            json.dumps([vars(it) for it in found.often], allow_nan=False)
