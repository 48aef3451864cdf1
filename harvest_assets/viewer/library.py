"""The harvests of this machine: opened on demand, and again when their files have changed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import file_version
from harvest_assets.files.layout import HarvestLayout, harvest_folders
from harvest_assets.files.manifest import read
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.shards import SHARD_KEYS
from harvest_assets.viewer.finished import FinishedHarvest
from harvest_assets.viewer.harvest import Harvest

_MAX_OPEN = 4


@dataclass(frozen=True)
class _Opened:
    stamp: Hashable
    harvest: Harvest


class Library:
    """Opens harvests by the name of their folder; safe to share between threads."""

    def __init__(self) -> None:
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """The folders of all harvests."""
        return [folder.name for folder in harvest_folders()]

    def get(self, name: str) -> Harvest:
        """The harvest in a folder, as it is now.

        Raises:
            HarvestError: there is none, or it is damaged.
        """
        paths = HarvestLayout.of(name)
        if name not in self.names():
            raise HarvestError(f"{name} has not been harvested: {paths.root} does not exist.")
        with self._lock:
            known, stamp = self._opened.get(name), _stamp(paths)
            if known is None or known.stamp != stamp:
                known = self._open(paths, known, stamp)
            self._opened[name] = known
            self._opened.move_to_end(name)
            if len(self._opened) > _MAX_OPEN:
                self._opened.popitem(last=False)
            return known.harvest

    def version(self, name: str) -> str:
        """Identifies the files of a harvest: differs from `Harvest.version` once they change."""
        return _version(_stamp(HarvestLayout.of(name)))

    def _open(self, paths: HarvestLayout, known: _Opened | None, stamp: Hashable) -> _Opened:
        try:
            harvest = open_harvest(paths)
            harvest.version = _version(stamp)
            return _Opened(stamp, harvest)
        except (HarvestError, OSError):
            # States may be replaced at this moment: what was opened before can still be read.
            if known is None:
                raise
            return known


def open_harvest(paths: HarvestLayout) -> Harvest:
    """The results of a harvest or, before they exist, the states saved so far.

    Raises:
        HarvestError: there is neither, or it is damaged.
    """
    finished = all(file.exists() for file in paths.five_files)
    if not paths.plan.exists() or not paths.token_rows.exists():
        if finished:
            return FinishedHarvest(paths)
        raise HarvestError(
            f"{paths.root} has no harvest yet: neither results nor a plan with its token rows."
        )
    plan = HarvestPlan.open(paths.root)
    if finished and {entry.plan for entry in read(paths).values()} == {plan.digest}:
        return FinishedHarvest(paths)
    from harvest_assets.viewer.in_progress import HarvestInProgress

    harvest = HarvestInProgress(paths, plan)
    if finished and harvest.n_tokens == 0:
        older = FinishedHarvest(paths)
        older.warnings.append(
            "These results are of an older plan; nothing has been saved for the newer one yet."
        )
        return older
    return harvest


def _version(stamp: Hashable) -> str:
    return f"{hash(stamp):x}"


def _stamp(paths: HarvestLayout) -> Hashable:
    files = [paths.manifest, paths.plan, paths.token_rows, paths.config, paths.merged_current]
    for shard in SHARD_KEYS:
        files += [paths.shard_current(shard), paths.shard_saved(shard)]
    stamps: list[tuple[int, ...]] = []
    for file in files:
        try:
            stamps.append(file_version(file))
        except OSError:
            stamps.append(())
    return tuple(stamps)
