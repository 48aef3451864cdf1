"""Shared by all exports: a finished harvest, checked, and a new folder, complete or absent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files import manifest
from harvest_assets.files.atomic import fsync_path, remove, sweep, temporary_beside
from harvest_assets.files.layout import HarvestLayout, harvest_root
from harvest_assets.files.untrusted import read_json
from harvest_assets.store.imported import require_harvested
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.registry import owner_of


@dataclass(frozen=True)
class Source:
    """A finished harvest.

    Args:
        paths: of the harvest.
        plan: its settings.
        config: the content of its `config.json`.
        entries: of its manifest, by path below its folder.
    """

    paths: HarvestLayout
    plan: HarvestPlan
    config: dict[str, Any]
    entries: dict[str, manifest.Entry]

    @classmethod
    def open(cls, paths: HarvestLayout) -> Source:
        """Open a harvest.

        Raises:
            HarvestError: it is not finished, was imported, or its files do not belong together.
        """
        if not paths.manifest.exists():
            raise HarvestError(f"{paths.root} is not a finished harvest: it has no manifest.json.")
        require_harvested(paths, "exported")
        plan, entries = HarvestPlan.open(paths.root), manifest.read(paths)
        problems = manifest.disagreements(paths)
        if {entry.plan for entry in entries.values()} != {plan.digest}:
            problems.append(
                f"The results in {paths.root} are not those of its plan; harvest it again."
            )
        if problems:
            raise HarvestError("\n       ".join(problems))
        try:
            config = dict(read_json(paths.config))
        except (OSError, ValueError, TypeError) as error:
            raise HarvestError(f"{paths.config} cannot be read: {reason_of(error)}.") from error
        return cls(paths, plan, config, entries)

    @property
    def kind(self) -> str:
        """The kind of decomposition."""
        return str(self.config.get("kind", "spd"))

    def check(self, file: Path, sha256: str) -> None:
        """Check that what was read of a file is what the manifest names.

        Raises:
            HarvestError: it is not.
        """
        entry = self.entries.get(file.relative_to(self.paths.root).as_posix())
        if entry is None or entry.sha256 != sha256:
            raise HarvestError(
                f"{file} is damaged, or was replaced meanwhile; run harvest-assets verify "
                f"{self.paths.root.name}, and export again."
            )


@contextmanager
def new_folder(folder: Path, name: str) -> Iterator[tuple[Path, Path]]:
    """A new folder, complete or absent.

    Args:
        folder: in which it is made.
        name: its name; after a dash at the end follows the time, `YYYYMMDD_HHMMSS` in UTC.

    Yields:
        A folder to be filled, and the path that it is going to have.

    Raises:
        HarvestError: it exists, or would be listed as a harvest.
        OSError: it cannot be written.
    """
    _check_is_elsewhere(folder)
    target = folder / (f"{name}{datetime.now(UTC):%Y%m%d_%H%M%S}" if name[-1] == "-" else name)
    if target.exists() or target.is_symlink():
        raise HarvestError(f"{target} exists, and was left as it is; choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    staging = temporary_beside(target)
    try:
        staging.mkdir()
        yield staging, target
        for file in (*staging.rglob("*"), staging):
            fsync_path(file)
        staging.rename(target)
    finally:
        remove(staging)
    fsync_path(folder)


def _check_is_elsewhere(folder: Path) -> None:
    """Refuse a folder that holds our harvests, or would be listed among them.

    Raises:
        HarvestError: it is one.
    """
    root, place = harvest_root().resolve(), folder.resolve()
    if place == root or (place.parent == root and owner_of(HarvestLayout(place)) is None):
        raise HarvestError(
            f"{folder} is the folder of our own harvests, or would be one among them; choose a "
            "folder elsewhere."
        )
