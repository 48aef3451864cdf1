"""What is stored under `SPD_OUT_DIR` and no longer needed.

Results, merged states and whatever a process is working on are never touched. What is removed can
be made again: shard states of a complete harvest that was compacted, saved states that a finished
shard left, empty folders, token rows and arrays that no harvest names, what the viewer computed
from harvests that are gone, and what killed processes left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.errors import HarvestError
from harvest_assets.files import layout
from harvest_assets.files.atomic import abandoned, remove
from harvest_assets.files.layout import HarvestLayout, harvest_folders, has_files
from harvest_assets.files.lease import LeaseHeldError, hold_lease
from harvest_assets.files.manifest import disagreements
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.shards import SHARD_KEYS, Work
from harvest_assets.store.shared_rows import SharedTokenRows

# Rows are written before the harvest that needs them names them.
_PREPARING_SECONDS = 3600.0
_OLD_DOWNLOAD = ".*.download-*"  # as version 0.1 named what it was downloading
_DOWNLOADING_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Removable:
    """A file or folder that can be removed.

    Args:
        path: of the file or folder.
        why: in a few words.
        n_bytes: its size.
        lease: must be held while it is removed; None if no process can be using it.
    """

    path: Path
    why: str
    n_bytes: int
    lease: Path | None = None


def removable(older_than: float = 0.0) -> list[Removable]:
    """What can be removed now.

    Args:
        older_than: only what has not been written to for this many seconds.
    """
    now = time.time()
    found = [*_of_harvests(), *_of_data(), *_of_arrays(), *_of_downloads(), *_of_viewer()]
    return [item for item in found if now - _newest(item.path) >= older_than]


def free(items: list[Removable]) -> list[Removable]:
    """Remove files and folders, except those in use; returns the ones removed."""
    gone = []
    for item in items:
        with ExitStack() as stack:
            try:
                if item.lease is not None:
                    stack.enter_context(hold_lease(item.lease, str(item.path)))
            except LeaseHeldError:
                continue
            if item.path.is_dir():
                # The pointer first: a state is complete or absent, never partial.
                (item.path / "current.json").unlink(missing_ok=True)
            remove(item.path)
        if not item.path.exists():
            gone.append(item)
    return gone


def _of_harvests() -> Iterator[Removable]:
    root = layout.harvest_root()
    yield from _temporary(root)
    for folder in harvest_folders():
        paths = HarvestLayout(folder)
        try:
            paths.check_links()
        except HarvestError:
            continue  # what a link points to is not ours
        if not (has_files(folder) or folder.is_symlink() or _may_be_new(folder)):
            yield Removable(folder, "of a harvest that was never begun", 0, paths.harvest_lease)
            continue
        places = [folder, paths.activation_contexts, paths.correlations, folder / "leases"]
        places += [paths.interpretations, paths.interpretation_entries, paths.interpretation_lists]
        places += [paths.autointerp_reports, paths.comparisons]
        for place in places:
            yield from _temporary(place)
        compacted = _is_compacted(paths)
        for shard in SHARD_KEYS:
            place, lease = paths.shard(shard), paths.shard_lease(shard)
            yield from _temporary(place)
            saved = paths.shard_saved(shard).parent
            if compacted and place.exists():
                yield Removable(place, "compacted into the merged state", _size(place), lease)
            elif saved.exists() and paths.shard_current(shard).exists():
                yield Removable(saved, "its shard was finished", _size(saved), lease)


def _is_compacted(paths: HarvestLayout) -> bool:
    """Whether the merged state covers the whole harvest undamaged, and the results are complete."""
    try:
        work = Work.of(paths, HarvestPlan.open(paths.root))
    except HarvestError:
        return False
    return (
        work.merged is not None
        and len(work.merged.rows) == work.n_rows
        and not disagreements(paths)
        and not work.merged.damage()
    )


def _of_data() -> Iterator[Removable]:
    data = layout.data_dir("_").parent
    yield from _temporary(data)
    named = set()
    root = layout.harvest_root()
    for folder in root.iterdir() if root.is_dir() else ():
        if not HarvestLayout(folder).token_rows.exists():
            continue
        try:
            named.add(SharedTokenRows.open(folder).fingerprint)
        except HarvestError:
            return  # a harvest whose token rows are unknown may need any of them
    yield from _unnamed(data, named, "token rows that no harvest names")


def _of_arrays() -> Iterator[Removable]:
    arrays = layout.array_dir("_").parent
    yield from _temporary(arrays)
    named = set()
    for folder in harvest_folders() if arrays.is_dir() else ():
        if not HarvestLayout(folder).run_checkpoint.exists():
            continue
        try:
            named.add(Path(open_decomposition(folder).data_spec(None).dataset_name).name)
        except HarvestError:
            return  # a harvest whose data are unknown may need any of them
    yield from _unnamed(arrays, named, "an array of tokens that no harvest names")


def _unnamed(parent: Path, named: set[str], why: str) -> Iterator[Removable]:
    """The folders in another whose names are not among these, and that are not new."""
    for rows in sorted(parent.iterdir()) if parent.is_dir() else ():
        unnamed = rows.is_dir() and not rows.name.startswith(".") and rows.name not in named
        if unnamed and not _may_be_new(rows):
            yield Removable(rows, why, _size(rows))


def _of_downloads() -> Iterator[Removable]:
    for cache in (
        layout.run_cache_dir("_", "_").parent,
        layout.pretrain_cache_dir("_", "_").parent,
    ):
        yield from _temporary(cache)
        for path in cache.glob(_OLD_DOWNLOAD):
            if time.time() - _newest(path) > _DOWNLOADING_SECONDS:
                yield Removable(path, "a download that was not finished", _size(path))


def _of_viewer() -> Iterator[Removable]:
    harvests = {folder.name for folder in harvest_folders()}
    root = layout.viewer_cache_root()
    if root.is_symlink() or root.parent.is_symlink() or not root.is_dir():
        return  # what a link points to is not ours
    for folder in sorted(path for path in root.iterdir() if not path.is_symlink()):
        if folder.name not in harvests and folder.is_dir():
            why = "the viewer computed it from a harvest that is gone"
            yield Removable(folder, why, _size(folder))
        else:
            yield from _temporary(folder)


def _temporary(folder: Path) -> Iterator[Removable]:
    for path in abandoned(folder):
        yield Removable(path, "left by a process that died", _size(path))


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _may_be_new(path: Path) -> bool:
    """Whether a process may be about to use a folder that nothing names yet."""
    return time.time() - _newest(path) <= _PREPARING_SECONDS


def _newest(path: Path) -> float:
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return max(file.stat().st_mtime for file in files)
