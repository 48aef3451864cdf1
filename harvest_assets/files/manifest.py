"""`manifest.json`: size, digest, plan and stamp of the five files of a harvest and of the tables.

The files are replaced one by one; the manifest is what shows a reader that two of them come from
different harvests.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import file_version
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.records import FileDigest, Older, Record, sha256_of
from harvest_assets.files.stamps import Stamp, stamp_of_published

_READ_AT_ONCE = 4


@dataclass(frozen=True)
class Entry(FileDigest):
    """What a result file must be, and the digest of the plan that it was merged for.

    Args:
        plan: the digest.
        stamp: see `stamp_of_published`; None also in manifests of version 0.1.
    """

    plan: str | None = None
    stamp: Stamp | None = None


@dataclass(frozen=True)
class _Manifest:
    """The entries by path below the harvest's folder."""

    files: dict[str, Entry]


_RECORD = Record(_Manifest, "a manifest", older=Older(), ignore_unknown=True)


def record(
    paths: HarvestLayout, file: Path, plan_digest: str, digest: FileDigest | None = None
) -> None:
    """Add a file that has just been replaced, or replace its entry.

    One writer at a time: the stages of a harvest run one after another.

    Args:
        paths: of the harvest.
        file: the file.
        plan_digest: of the plan that it was merged for.
        digest: of the file, where it was taken while writing; None: the file is read.
    """
    stamp = stamp_of_published(file)
    digest = digest or FileDigest.of(file)
    entry = Entry(digest.size, digest.sha256, plan_digest, stamp)
    _RECORD.write(paths.manifest, _Manifest({**read(paths), _name(paths, file): entry}))


def restamp(paths: HarvestLayout, file: Path) -> None:
    """Replace the stamp of a file whose change time is another only because it has other names."""
    entries, name = read(paths), _name(paths, file)
    entry, stamp = entries.get(name), stamp_of_published(file)
    if (
        entry
        and entry.stamp
        and stamp
        and _without_change_time(entry.stamp) == _without_change_time(stamp)
    ):
        _RECORD.write(paths.manifest, _Manifest({**entries, name: replace(entry, stamp=stamp)}))


def _without_change_time(stamp: Stamp) -> tuple[int, ...]:
    size, modified, _, inode = stamp
    return size, modified, inode


def forget_stamps(paths: HarvestLayout) -> None:
    """Leave out the stamps, so that equal files have equal manifests wherever they are."""
    entries = {name: replace(entry, stamp=None) for name, entry in read(paths).items()}
    _RECORD.write(paths.manifest, _Manifest(entries))


def forget(paths: HarvestLayout, file: Path) -> None:
    """Remove a file that new results lack, with its entry; one writer at a time."""
    file.unlink(missing_ok=True)
    entries, name = read(paths), _name(paths, file)
    if entries.pop(name, None) is not None:
        _RECORD.write(paths.manifest, _Manifest(entries))


def read(paths: HarvestLayout) -> dict[str, Entry]:
    """The entries by path below the harvest's folder.

    Returns:
        Nothing where there is no manifest, or a damaged one.
    """
    try:
        files = _RECORD.read(paths.manifest).files
    except HarvestError:
        return {}
    return files if all(map(_is_inside, files)) else {}


def _is_inside(name: str) -> bool:
    """Whether a path names a file below the harvest's folder."""
    return not name.startswith("/") and not set(name.split("/")) & {"", ".", ".."}


def disagreements(paths: HarvestLayout, *, deep: bool = False) -> list[str]:
    """What is wrong with the five files, in sentences; empty if they are complete.

    Args:
        paths: of the harvest.
        deep: read the files and compare their digests too, also of the tables beside them.
    """
    entries = read(paths)
    problems = []
    digests = _digests(
        [*paths.five_files, *(paths.root / name for name in entries)] if deep else []
    )
    for file in paths.five_files:
        name = _name(paths, file)
        if not file.exists():
            problems.append(f"{file} is missing.")
        elif name not in entries:
            problems.append(f"{paths.manifest} does not name {name}.")
        elif file.stat().st_size != entries[name].size:
            problems.append(f"{file} does not have the size recorded in {paths.manifest.name}.")
        elif deep and digests.get(file) != entries[name].sha256:
            problems.append(f"{file} does not have the digest recorded in {paths.manifest.name}.")
    if deep:
        problems += _damaged_tables(paths, entries, digests)
    plans = {entry.plan for entry in entries.values()}
    if len(plans) > 1:
        problems.append(f"The files in {paths.root} come from different harvests; merge again.")
    return problems


def is_intact(paths: HarvestLayout, plan_digest: str) -> bool:
    """Whether all five files and the tables are the ones that were merged for a plan.

    A file is read only if its stamp is not the one in the manifest, or if there is none.
    """
    entries = read(paths)
    files = [*paths.five_files, *paths.tables]
    files += [file for file in paths.optional_files if _name(paths, file) in entries]
    if any(_name(paths, file) not in entries or not file.is_file() for file in files):
        return False
    if {entry.plan for entry in entries.values()} != {plan_digest}:
        return False
    changed = [file for file in files if entries[_name(paths, file)].stamp != file_version(file)]
    digests = _digests(changed)
    return not disagreements(paths) and all(
        digests.get(file) == entries[_name(paths, file)].sha256 for file in changed
    )


def _digests(files: Iterable[Path]) -> dict[Path, str]:
    """The digests of the files that exist, read side by side."""
    existing = list(dict.fromkeys(file for file in files if file.is_file()))
    with ThreadPoolExecutor(max_workers=_READ_AT_ONCE) as readers:
        return dict(zip(existing, readers.map(sha256_of, existing), strict=True))


def _damaged_tables(
    paths: HarvestLayout, entries: dict[str, Entry], digests: dict[Path, str]
) -> list[str]:
    files = {paths.root / name: entry for name, entry in entries.items()}
    return [
        f"{file} is missing or damaged; merge again to rebuild it."
        for file, entry in files.items()
        if file not in paths.five_files and digests.get(file) != entry.sha256
    ]


def _name(paths: HarvestLayout, file: Path) -> str:
    return file.relative_to(paths.root).as_posix()
