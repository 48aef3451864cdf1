"""What was written and is not in the tables yet: immutable files, one each time.

Two writers never write the same file, so that neither needs to wait for the other. An entry's id is
the name of its file and its place in it.
"""

from __future__ import annotations

import dataclasses
import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import atomic_path
from harvest_assets.files.records import Record
from harvest_assets.interpretations.entries import Edit, Entry, Label, Score, now

_NAME = re.compile(r"\d{8}T\d{12}-[0-9a-f]{32}\.json")
_MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Entries:
    """Entries of each kind, in the order in which they were given.

    Args:
        labels: of components.
        scores: of components or of their labels.
        edits: by people.
        checkpoint: digest of the checkpoint whose components they are about; None if not known.
    """

    labels: tuple[Label, ...] = ()
    scores: tuple[Score, ...] = ()
    edits: tuple[Edit, ...] = ()
    checkpoint: str | None = None

    @classmethod
    def of(cls, entries: Iterable[Entry], checkpoint: str | None = None) -> Entries:
        """Entries of any kinds, sorted into theirs."""
        given = list(entries)
        return cls(
            tuple(entry for entry in given if isinstance(entry, Label)),
            tuple(entry for entry in given if isinstance(entry, Score)),
            tuple(entry for entry in given if isinstance(entry, Edit)),
            checkpoint,
        )

    def __len__(self) -> int:
        return len(self.labels) + len(self.scores) + len(self.edits)

    def rows(self, file: str) -> dict[str, list[dict[str, Any]]]:
        """The rows that they become in each table; `file` is the name of their file."""
        rows: Mapping[str, Sequence[Entry]]
        rows = {"labels": self.labels, "scores": self.scores, "edits": self.edits}
        return {
            kind: [
                {
                    "entry_id": f"{file}:{place:06d}",
                    "checkpoint": self.checkpoint,
                    **_row(entry),
                }
                for place, entry in enumerate(entries)
            ]
            for kind, entries in rows.items()
        }


def _row(entry: Entry) -> dict[str, Any]:
    fields = _fields(entry)
    if isinstance(entry, Edit):
        fields["value"] = json.dumps(entry.value, ensure_ascii=False)
    return fields


def _fields(entry: Entry) -> dict[str, Any]:
    # Not `asdict`, which copies each value.
    return {it.name: getattr(entry, it.name) for it in dataclasses.fields(entry)}


def _json(entries: Entries) -> dict[str, Any]:
    def fields(entry: Entry) -> dict[str, Any]:
        return {**_fields(entry), "written_at": entry.written_at.isoformat()}

    return {
        "labels": [fields(entry) for entry in entries.labels],
        "scores": [fields(entry) for entry in entries.scores],
        "edits": [fields(entry) for entry in entries.edits],
        "checkpoint": entries.checkpoint,
    }


_RECORD = Record(Entries, "a file of entries", max_bytes=_MAX_BYTES, fields_of=_json)


def write(folder: Path, entries: Entries) -> Path:
    """Write one new file; it is on the disk when this returns.

    Raises:
        HarvestError: it could not be read again: it would be too long, or a value has a wrong type.
        OSError: it cannot be written.
    """
    content = _RECORD.encode(entries)
    if len(content) > _MAX_BYTES:
        raise HarvestError(
            f"{len(content):,} bytes are too many to be kept at once; at most {_MAX_BYTES:,} are. "
            "Split them."
        )
    # Checked here, since what cannot be read is lost with all that is in the same file.
    try:
        _RECORD.parse(content)
    except ValueError as error:
        raise HarvestError(f"The entries are not valid: {reason_of(error)}.") from error
    path = folder / f"{now():%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex}.json"
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path


def files_in(folder: Path) -> tuple[list[Path], list[str]]:
    """The files of entries in a folder, and a message for each other file."""
    found, problems = [], []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):
            continue  # being written, or left by a process that was killed
        if _NAME.fullmatch(path.name):
            found.append(path)
        else:
            problems.append(f"{path} is not a file of entries and was left out.")
    return found, problems


def read(path: Path) -> Entries:
    """The entries of a file.

    Raises:
        FileNotFoundError: it has been folded into the tables and removed.
        HarvestError: it is damaged.
    """
    try:
        return _RECORD.read(path)
    except HarvestError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise FileNotFoundError(path) from None
        raise
