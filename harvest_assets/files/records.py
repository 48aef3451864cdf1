"""Small JSON files that carry a digest of themselves, and digests of the files they speak of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import write_json
from harvest_assets.files.untrusted import read_json

_SEAL = "digest"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write a mapping of JSON values atomically, with its digest under the key `digest`."""
    write_json(path, {**value, _SEAL: _digest(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote.

    Raises:
        HarvestError: the file is not there, or does not hold what was written.
    """
    try:
        value = read_json(path)
        found = value.pop(_SEAL)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HarvestError(f"{path} is missing or damaged. ({reason_of(error)})") from error
    if found != _digest(value):
        raise HarvestError(f"{path} is damaged: it does not hold what was written.")
    return value  # type: ignore[no-any-return]


def describe_files(directory: Path, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Size and digest of files, to be told in a sealed file beside them."""
    return {
        name: {"size": (directory / name).stat().st_size, "sha256": sha256_of(directory / name)}
        for name in names
    }


def damage(directory: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    """What of the described files is not as it was described, in sentences."""
    problems = []
    for name, told in files.items():
        path = directory / name
        if not path.is_file():
            problems.append(f"{path} is missing.")
        elif (size := path.stat().st_size) != told.get("size"):
            problems.append(f"{path} has {size} bytes instead of {told.get('size')}.")
        elif sha256_of(path) != told.get("sha256"):
            problems.append(f"{path} is damaged: its digest is not the one that was written down.")
    return problems


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
