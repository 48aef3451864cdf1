"""Attacks that are links in the folder of a harvest."""

from __future__ import annotations

import os
from pathlib import Path

from harvest_assets.store.garbage import free, removable
from harvest_assets_tests.faults.small_harvest import SmallHarvest
from harvest_assets_tests.hostile.attacks.registry import attack, refused


def _harvest(folder: Path) -> SmallHarvest:
    harvest = SmallHarvest(folder / "harvest" / "x-aaaaaaaa", n_shards=1)
    harvest.prepare()
    return harvest


def _linked(folder: Path, name: str) -> SmallHarvest:
    """A harvest of which one folder leads outside."""
    harvest = _harvest(folder)
    place = harvest.root / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(folder / "outside", target_is_directory=True)
    return harvest


for _folder in (
    *("shards", "shards/00", "shards/00/saved", "merged"),
    *("leases", "logs", "activation_contexts", "correlations"),
):

    @attack("links", f"harvesting through {_folder}")
    def _(folder: Path, name: str = _folder) -> bool:
        return refused(_linked(folder, name).run)


@attack("links", "cleaning what a link leads to")
def _(folder: Path) -> bool:
    os.environ["SPD_OUT_DIR"] = str(folder)
    harvest = _harvest(folder)
    harvest.shard("00")
    harvest.merge()
    (folder / "outside" / "kept").rename(folder / "current.json")
    shard = harvest.paths.shard("00")
    shard.parent.mkdir(exist_ok=True)
    shard.symlink_to(folder, target_is_directory=True)
    free(removable())
    (folder / "current.json").rename(folder / "outside" / "kept")
    return True


@attack("links", "a file that is replaced, not what it leads to")
def _(folder: Path) -> bool:
    harvest = _harvest(folder)
    harvest.paths.plan.unlink()
    harvest.paths.plan.symlink_to(folder / "outside" / "kept")
    harvest.run()
    return not harvest.paths.plan.is_symlink()
