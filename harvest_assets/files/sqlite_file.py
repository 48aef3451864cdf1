"""SQLite databases that others may have written: read, never changed, nothing in them run."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from harvest_assets.errors import HarvestError, reason_of

MAGIC = b"SQLite format 3\0"
_JOURNALS = {
    "-wal": "PRAGMA wal_checkpoint(TRUNCATE)",
    "-journal": "PRAGMA journal_mode=DELETE; PRAGMA integrity_check",
}


@contextmanager
def opened_database(path: Path, max_bytes: int, max_value: int) -> Iterator[sqlite3.Connection]:
    """Open a database as it is in its file.

    Args:
        path: of the file.
        max_bytes: that the file may have.
        max_value: bytes of a text or BLOB, so that a small file cannot compute long ones.

    Raises:
        HarvestError: it is damaged or too large, is not a regular file, or has changes that are not
            in the file yet.
        OSError: it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise HarvestError(f"{path} is not a regular file.")
    _check_journals(path)
    if status.st_size > max_bytes:
        raise HarvestError(f"{path} is longer than {max_bytes:,} bytes.")
    address = f"file:{quote(str(path.absolute()))}?immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max_value)
            yield database
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise HarvestError(f"{path} cannot be read: {reason_of(error)}.") from error


def tables_of(database: sqlite3.Connection) -> set[str]:
    """The names of the tables; views are not among them."""
    rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {name for (name,) in rows}


def _check_journals(path: Path) -> None:
    for suffix, remedy in _JOURNALS.items():
        journal = path.with_name(f"{path.name}{suffix}")
        if journal.exists() and journal.stat().st_size:
            raise HarvestError(
                f"{path} has changes in {journal.name} that are not in the file; close the program "
                f"that writes it, or run sqlite3 {path.name} '{remedy}'."
            )
