"""How a value is published: whole, or not at all.

A value writes itself into a folder laid out like its part of the harvest's folder; what is complete
is then moved, file by file. A state is a directory, which no rename can put over another: every
attempt gets a new one, and a small file, replaced atomically, points to it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import (
    fsync_path,
    remove,
    rename_into_place,
    sweep,
    temporary_beside,
)
from harvest_assets.files.layout import HarvestLayout, is_folder_name
from harvest_assets.files.manifest import forget, record
from harvest_assets.files.records import FileDigest, Older, Record


class Value(Protocol):
    """What an asset produces."""

    def write(self, directory: Path) -> Mapping[Path, FileDigest] | None:
        """Write everything, on the disk when it returns, into an existing directory.

        Returns:
            The digests of files that were taken while writing.
        """


@dataclass(frozen=True)
class _Pointer:
    """The name of the directory, in the folder of the pointer."""

    directory: str


_POINTER = Record(_Pointer, "a pointer to a state", older=Older(has_digest=True))


@contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """A private folder that is removed when the block ends."""
    root.mkdir(parents=True, exist_ok=True)
    directory = temporary_beside(root / "staging")
    directory.mkdir()
    try:
        yield directory
    finally:
        remove(directory)


def publish_files(paths: HarvestLayout, value: Value) -> int:
    """Replace file by file, each atomically, and write the results into the manifest.

    A value that writes results knows the plan that it was merged for. What killed processes
    left is swept away first.

    Returns:
        The bytes written.
    """
    written = 0
    paths.check_links()
    for folder in (paths.root, paths.activation_contexts, paths.correlations):
        sweep(folder)
    with _staging(paths.root) as staging:
        digests = value.write(staging) or {}
        new = HarvestLayout(staging)
        if new.components.exists():
            for old, replacement in zip(paths.optional_files, new.optional_files, strict=True):
                if not replacement.exists():
                    forget(paths, old)
        for file in sorted(path for path in staging.rglob("*") if path.is_file()):
            final = paths.root / file.relative_to(staging)
            written += file.stat().st_size
            final.parent.mkdir(parents=True, exist_ok=True)
            rename_into_place(file, final)
            if final.parent in (paths.activation_contexts, paths.correlations):
                record(paths, final, getattr(value, "plan_digest", ""), digests.get(file))
    return written


def commit_directory(current: Path, value: Value) -> int:
    """Write into a new directory, point to it, and remove the ones before it.

    The folder of `current` has one writer at a time.

    Returns:
        The bytes written.
    """
    place, attempt = current.parent, uuid.uuid4().hex
    directory = place / attempt
    try:
        directory.mkdir(parents=True)
        value.write(directory)
        fsync_path(directory)
        fsync_path(place)
    except BaseException:
        remove(directory)
        raise
    _POINTER.write(current, _Pointer(attempt))
    sweep_directories(current)
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def committed_directory(current: Path) -> Path | None:
    """The directory that the pointer names; None if nothing was finished yet.

    Raises:
        HarvestError: the pointer is damaged.
    """
    if not current.exists():
        return None
    folder = _POINTER.read(current).directory
    if not is_folder_name(folder) or folder == SAVED:
        raise HarvestError(f"{current} points out of its folder: {folder[:200]!r}.")
    return current.parent / folder


def sweep_directories(current: Path) -> None:
    """Remove the attempts that nothing points to; only the sole writer may call this."""
    directory = committed_directory(current)
    for path in current.parent.iterdir():
        if path.is_dir() and path != directory and path.name != SAVED:
            remove(path)
    sweep(current.parent)


# The folder of an unfinished state, below the folder of the shard.
SAVED = "saved"
