"""A small harvest: shards, merge, publication, compaction."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from harvest_assets.files import atomic, lease
from harvest_assets.files import commit as publication
from harvest_assets.files.manifest import disagreements
from harvest_assets.harvester import HarvesterState, kept_firings
from harvest_assets.harvester import state as states
from harvest_assets.harvester.state_sum import StateSum
from harvest_assets.results import component_tables, contexts
from harvest_assets.results import merge as merging
from harvest_assets.results.component_tables import ComponentTables
from harvest_assets.store import compaction, resume
from harvest_assets_tests.faults.kills import Victim
from harvest_assets_tests.faults.processes import Point, from_child
from harvest_assets_tests.faults.small_harvest import SmallHarvest, contents


class HarvestVictim(Victim):
    """A harvest; in half of the rounds one of another seed is in its place."""

    points = (
        Point("accumulation", resume, "harvest_rows"),
        Point("save", HarvesterState, "save"),
        Point("rename", atomic, "rename_into_place"),
        Point("rename", publication, "rename_into_place"),
        Point("merge", merging, "merge_correlations"),
        Point("merge", merging, "merge_token_stats"),
        Point("JSON lines", contexts, "_line"),
        Point("index", ComponentTables, "_write_index"),
        Point("compaction", compaction.CompactedState, "write"),
        Point("sweep", publication, "remove"),
        Point("sweep", compaction, "remove"),
        Point("sweep", lease, "_create"),
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        torch.set_num_threads(1)  # a forked child has no threads of its parent
        self._harvest = self._new(folder / "work")
        self._old, fresh = self._earlier(folder / "old"), self._new(folder / "new")
        for harvest in (self._old, fresh):
            from_child(harvest.run)
        self._versions = [
            from_child(lambda paths=it.paths: contents(paths)) for it in (self._old, fresh)
        ]
        self._right = self._versions[1]
        self._over_old = False

    def _new(self, root: Path) -> SmallHarvest:
        return SmallHarvest(root, keep_firings=-1)

    def _earlier(self, root: Path) -> SmallHarvest:
        return replace(self._new(root), seed=7)

    def begin(self, *, over_old: bool) -> None:
        self._over_old = over_old
        shutil.rmtree(self._harvest.root, ignore_errors=True)
        if over_old:
            shutil.copytree(self._old.root, self._harvest.root)

    def work(self) -> None:
        self._harvest.run()

    def after_kill(self) -> Iterator[str]:
        """Each file is an old or a new one, whole; a mix of both is named by the manifest."""
        found = contents(self._harvest.paths)
        for name, value in found.items():
            if all(value != version.get(name) for version in self._versions):
                yield f"{name} is neither the old nor the new one"
        if self._over_old and len(found) < len(self._right):
            yield "an old file is gone"
        named = disagreements(self._harvest.paths, deep=True)
        if not named and found not in self._versions:
            yield "a mix of harvests was not named"

    def after_rerun(self) -> Iterator[str]:
        paths = self._harvest.paths
        if contents(paths) != self._right or disagreements(paths, deep=True):
            yield "the rerun ended with something else"
        left = [p for p in paths.root.rglob("*") if p.name.endswith(".tmp") or p.name == "shards"]
        left = [p for p in left if p.name != "shards" or any(p.iterdir())]
        if left:
            yield f"leftovers {left}"


class ExtendedVictim(HarvestVictim):
    """Its newer stages; in half of the rounds it extends a shorter harvest that was compacted."""

    points = (
        Point("tensors of a state", states, "save_tensors"),
        Point("firings of a state", kept_firings.FiringBlocks, "save"),
        Point("block of firings", kept_firings.FiringWriter, "_write_block"),
        Point("joined firings", kept_firings.FiringBlocks, "join"),
        Point("parallel sums", StateSum, "input_counts"),
        Point("parallel lines", contexts, "_with_line"),
        Point("tables", component_tables._TableWriter, "flush"),
        Point("reading back", compaction, "disagreements"),
        Point("removing shards", compaction, "_remove_shard"),
        Point("stamping", compaction, "restamp"),
    )

    def _earlier(self, root: Path) -> SmallHarvest:
        return replace(self._new(root), n_batches=6)


class DictionaryVictim(ExtendedVictim):
    """A harvest without second values, as that of a dictionary; its only state is shared."""

    points = tuple(
        replace(point, stage=f"dictionary: {point.stage}")
        for point in (*HarvestVictim.points, *ExtendedVictim.points)
        if point.stage not in ("index", "sweep", "stamping")
    )

    def _new(self, root: Path) -> SmallHarvest:
        return SmallHarvest(root, n_shards=1, keep_firings=-1, second_values=False)
