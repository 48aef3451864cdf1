"""`manifest.json`: size, digest and plan of each of the five files of a harvest, and of the tables.

The files are replaced one by one; the manifest is what shows a reader that two of them come from
different harvests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harvest_assets.files.atomic import write_json
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.records import sha256_of
from harvest_assets.files.untrusted import read_json


def record(paths: HarvestLayout, file: Path, plan_digest: str) -> None:
    """Write down a file that has just been replaced.

    One writer at a time: the stages of a harvest run one after another.
    """
    files = read(paths)
    files[_name(paths, file)] = {
        "size": file.stat().st_size,
        "sha256": sha256_of(file),
        "plan": plan_digest,
    }
    write_json(paths.manifest, {"files": files})


def read(paths: HarvestLayout) -> dict[str, dict[str, Any]]:
    """The entries by path below the harvest's folder; empty where there is no manifest."""
    try:
        files = read_json(paths.manifest)["files"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        files = None
    if not isinstance(files, dict) or not all(_is_entry(*item) for item in files.items()):
        return {}
    return files


def _is_entry(name: str, entry: Any) -> bool:
    """Does it tell of a file below the harvest's folder?"""
    inside = not name.startswith("/") and not set(name.split("/")) & {"", ".", ".."}
    return inside and isinstance(entry, dict) and isinstance(entry.get("plan"), str | None)


def disagreements(paths: HarvestLayout, *, deep: bool = False) -> list[str]:
    """What is wrong with the five files, in sentences; empty if they stand complete.

    Args:
        paths: of the harvest.
        deep: read the files and compare their digests too, also of the tables beside them.
    """
    entries = read(paths)
    problems = []
    for file in paths.five_files:
        name = _name(paths, file)
        if not file.exists():
            problems.append(f"{file} is missing.")
        elif name not in entries:
            problems.append(f"{paths.manifest} does not name {name}.")
        elif file.stat().st_size != entries[name].get("size"):
            problems.append(f"{file} does not have the size that {paths.manifest.name} tells.")
        elif deep and sha256_of(file) != entries[name].get("sha256"):
            problems.append(f"{file} does not have the digest that {paths.manifest.name} tells.")
    if deep:
        problems += _damaged_tables(paths, entries)
    plans = {entry.get("plan") for name, entry in entries.items()}
    if len(plans) > 1:
        problems.append(f"The files in {paths.root} come from different harvests; merge again.")
    return problems


def _damaged_tables(paths: HarvestLayout, entries: dict[str, dict[str, Any]]) -> list[str]:
    files = {paths.root / name: entry for name, entry in entries.items()}
    return [
        f"{file} is missing or damaged; merge again to have it anew."
        for file, entry in files.items()
        if file not in paths.five_files
        and not (file.is_file() and sha256_of(file) == entry.get("sha256"))
    ]


def _name(paths: HarvestLayout, file: Path) -> str:
    return file.relative_to(paths.root).as_posix()
