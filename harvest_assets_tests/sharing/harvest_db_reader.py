"""Reads a folder of the newer form as its description says, with SQLite and JSON alone."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_JSON = ("mean_activations", "activation_examples", "input_token_pmi", "output_token_pmi")


@dataclass
class HarvestDb:
    """One `harvest.db`."""

    schema: dict[str, list[tuple]] = field(default_factory=dict)
    stored: set[tuple] = field(default_factory=set)
    components: dict[str, dict[str, Any]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    scores: dict[tuple[str, str], tuple[float, str]] = field(default_factory=dict)


def last_folder(folder: Path) -> Path:
    """The one that readers take."""
    return max(folder.glob("h-*"), key=lambda path: path.name)


def read(folder: Path) -> HarvestDb:
    file = folder / "harvest.db"
    assert file.read_bytes()[18:20] == b"\1\1"  # neither written nor read with a write-ahead log
    found = HarvestDb()
    with closing(sqlite3.connect(f"file:{file}?immutable=1", uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            found.schema[table] = database.execute(f"PRAGMA table_info({table})").fetchall()
        names = [column[1] for column in found.schema["components"]]
        types = ", ".join(f"typeof({name})" for name in names)
        query = f"SELECT DISTINCT {types} FROM components"  # noqa: S608 - names of columns
        found.stored = set(database.execute(query))
        for values in database.execute("SELECT * FROM components"):
            row = dict(zip(names, values, strict=True))
            row |= {name: json.loads(row[name]) for name in _JSON}
            found.components[row["component_key"]] = row
        found.config = {k: json.loads(v) for k, v in database.execute("SELECT * FROM config")}
        for key, method, score, details in database.execute("SELECT * FROM scores"):
            found.scores[key, method] = score, details
    return found
