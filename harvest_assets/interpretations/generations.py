"""The names of the tables: each is written as a new file, `labels-000007.parquet`, the next number.

The highest number is the table. Since no number is used twice, a process that was suspended while
it wrote, and whose lease others took meanwhile, cannot replace their rows.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from harvest_assets.files.atomic import file_version

_NAME = re.compile(r"(?P<kind>labels|scores|edits)-(?P<number>\d{6,18})\.parquet")


def _files(folder: Path, kind: str) -> list[tuple[int, Path]]:
    names = map(_NAME.fullmatch, (p.name for p in folder.iterdir()) if folder.is_dir() else ())
    found = [match for match in names if match and match["kind"] == kind]
    return sorted((int(match["number"]), folder / match[0]) for match in found)


def newest(folder: Path, kind: str) -> Path | None:
    """The file of a table; None if there is none yet."""
    files = _files(folder, kind)
    return files[-1][1] if files else None


def after(folder: Path, kind: str, path: Path | None) -> Path:
    """The file that follows another of the same table."""
    number = 0 if path is None else int(path.stem.rpartition("-")[2])
    return folder / f"{kind}-{number + 1:06d}.parquet"


def remove_older(folder: Path, kind: str) -> None:
    """Remove all files of a table but the newest, whose rows are in it."""
    for _, path in _files(folder, kind)[:-1]:
        path.unlink(missing_ok=True)


def version(folder: Path, kind: str) -> Any:
    """Equal as long as a table stays the same."""
    path = newest(folder, kind)
    with suppress(FileNotFoundError):
        return path and (path.name, file_version(path))
    return path
