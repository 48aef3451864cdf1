"""Compact the states of a harvest into one, a block of components at a time.

Extending a harvest needs what was counted so far, but not shard by shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import fsync_path, remove
from harvest_assets.files.commit import commit_directory
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.lease import LeaseHeldError, hold_lease
from harvest_assets.files.manifest import disagreements, read, restamp
from harvest_assets.files.records import FileDigest
from harvest_assets.harvester.kept_firings import FiringBlocks, link_or_copy
from harvest_assets.harvester.state_sum import StateSum
from harvest_assets.results.merge import scratch
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.shards import (
    MERGED,
    SHARD_KEYS,
    STATE_FOLDER,
    ShardResult,
    ShardResults,
    Work,
)


@dataclass(frozen=True)
class CompactedState:
    """The sum of states, added while it is written.

    Args:
        total: of the states.
        plan_digest, compatibility_digest, rows: as in `ShardResult`.
        only: the directory of the state, if the sum is of a single one.
        firings: of all rows whose firings are kept; None if none are.
    """

    total: StateSum
    plan_digest: str
    compatibility_digest: str
    rows: range
    only: Path | None = None
    firings: FiringBlocks | None = None

    def write(self, directory: Path) -> None:
        """Write it as the state of a shard is written."""
        given = (self.plan_digest, self.compatibility_digest, MERGED, self.rows)
        if self.only is not None:
            _share_files(self.only / STATE_FOLDER, directory / STATE_FOLDER)
            ShardResult(*given, None, firings=self.firings).write(directory)
            return
        with ExitStack() as stack:

            def allocate(
                name: str, shape: Sequence[int], dtype: torch.dtype, filled: Sequence[slice]
            ) -> torch.Tensor:
                file = directory / f"{name}.scratch"
                return stack.enter_context(scratch(file, shape, dtype, filled))

            ShardResult(*given, self.total.state(allocate), firings=self.firings).write(directory)


def _share_files(source: Path, directory: Path) -> None:
    """Give the files of a folder, which are never changed, a second name; else copy them."""
    directory.mkdir()
    for file in source.iterdir():
        link_or_copy(file, directory / file.name)
    fsync_path(directory)


def compact(paths: HarvestLayout, plan: HarvestPlan, keep: str) -> int:
    """Compact the states of a verified harvest into one, and remove those not to be kept.

    Before anything is removed, the published files are read back and compared with their digests.
    The lease of the merge must be held. Shards that another process is working on are kept.

    Args:
        paths: of the harvest.
        plan: of the harvest.
        keep: `all` keeps shards and the merged state, `merged` the merged state, `none` nothing.

    Returns:
        Bytes written.

    Raises:
        HarvestError: states or published files are missing or damaged; then nothing is removed.
    """
    written = _compact(paths, plan, keep)
    if plan.keep_firings:
        restamp(paths, paths.firings)  # its names were changed
    return written


def _compact(paths: HarvestLayout, plan: HarvestPlan, keep: str) -> int:
    written = 0
    with ThreadPoolExecutor(max_workers=1) as background:
        read_back = None
        if keep != "all":
            read_back = background.submit(disagreements, paths, deep=True)
        if keep != "none":
            written = _write_merged(paths, plan)
    if read_back is None:
        return written
    if problems := read_back.result():
        raise HarvestError(" ".join(problems))
    for shard in SHARD_KEYS:
        _remove_shard(paths, shard)
    if keep == "none":
        remove(paths.merged)
    return written


def _write_merged(paths: HarvestLayout, plan: HarvestPlan) -> int:
    """Write the merged state unless it is there already, and return the bytes written."""
    work = Work.of(paths, plan)
    shards = ShardResults(paths)
    total, stored = shards.open(plan), [*shards.find(plan).values()]
    whole = range(work.n_rows)
    if work.merged is not None and work.merged.rows == whole:
        kept = plan.rows_with_firings(whole) if plan.keep_firings else None
        if work.merged.rows_with_firings == kept:
            return 0
    only = stored[0].directory if len(stored) == 1 else None
    firings = _kept_firings(paths, plan)
    merged = CompactedState(total, plan.digest, work.compatibility_digest, whole, only, firings)
    return commit_directory(paths.merged_current, merged)


def _kept_firings(paths: HarvestLayout, plan: HarvestPlan) -> FiringBlocks | None:
    """The firings of a verified harvest: its result, whose file the state then shares."""
    if not plan.keep_firings:
        return None
    entry = read(paths).get(paths.firings.relative_to(paths.root).as_posix())
    if entry is None:
        raise HarvestError(f"{paths.manifest} does not name {paths.firings.name}; merge again.")
    return FiringBlocks.of_whole(paths.firings, FileDigest(entry.size, entry.sha256))


def _remove_shard(paths: HarvestLayout, shard: str) -> None:
    if not paths.shard(shard).exists():
        return
    try:
        with hold_lease(paths.shard_lease(shard), f"Shard {shard}"):
            # The pointer first: a shard is complete or absent, never partial.
            paths.shard_current(shard).unlink(missing_ok=True)
            remove(paths.shard(shard))
    except LeaseHeldError:
        return
