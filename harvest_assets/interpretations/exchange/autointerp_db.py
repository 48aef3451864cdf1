"""The SQLite database of SPD's newer autointerp: tables `interpretations` and `scores`.

`interpretations`: component_key, label, confidence (a word), reasoning, raw_response, prompt.
`scores`: component_key, score_type, score, details. `harvest.db` has the second table only.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import atomic_path
from harvest_assets.files.sqlite_file import opened_database, tables_of
from harvest_assets.interpretations.entries import Score
from harvest_assets.interpretations.exchange.imported import Imported

if TYPE_CHECKING:
    from harvest_assets.interpretations.storage import History

# The words have no numbers there; these keep their order, and come back as the same words.
_CONFIDENCE = {"low": 0.25, "medium": 0.5, "high": 0.75}
_LABELS = ("component_key", "label", "confidence", "reasoning")
_SCORES = ("component_key", "score_type", "score", "details")
_MAX_BYTES, _MAX_ROWS, _MAX_LENGTH = 1 << 40, 1 << 21, 1 << 20
_DETAILS = ("low", "high", "chance", "n_trials", "n_failed")
_SCHEMA = """
CREATE TABLE interpretations (
    component_key TEXT PRIMARY KEY, label TEXT NOT NULL, confidence TEXT NOT NULL,
    reasoning TEXT NOT NULL, raw_response TEXT NOT NULL, prompt TEXT NOT NULL);
CREATE TABLE scores (
    component_key TEXT NOT NULL, score_type TEXT NOT NULL, score REAL NOT NULL,
    details TEXT NOT NULL, PRIMARY KEY (component_key, score_type));
CREATE TABLE config (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


def read(path: Path, imported: Imported) -> None:
    """Read both tables, or the one that there is.

    Raises:
        HarvestError: the database is damaged or too large, has neither table, or has changes that
            are not in the file yet.
    """
    with opened_database(path, _MAX_BYTES, _MAX_LENGTH) as database:
        tables = tables_of(database)
        if not tables & {"interpretations", "scores"}:
            raise HarvestError(f"{path} has neither a table of interpretations nor of scores.")
        if "interpretations" in tables:
            _read_labels(database, imported)
        if "scores" in tables:
            _read_scores(database, imported)


def _rows(database: sqlite3.Connection, table: str, names: tuple[str, ...]) -> Iterator[Any]:
    # The names are ours.
    rows = database.execute(f"SELECT {', '.join(names)} FROM {table}")  # noqa: S608
    for number, row in enumerate(rows):
        if number == _MAX_ROWS:
            raise HarvestError(f"The table {table} has more than {_MAX_ROWS:,} rows.")
        yield row


def _read_labels(database: sqlite3.Connection, imported: Imported) -> None:
    imported.confidence_in_words = True
    for key, label, confidence, reasoning in _rows(database, "interpretations", _LABELS):
        word = str(confidence).strip().lower()
        imported.add_label(
            str(key), str(label), confidence=_CONFIDENCE.get(word), reason=str(reasoning)
        )


def _read_scores(database: sqlite3.Connection, imported: Imported) -> None:
    for key, method, score, details in _rows(database, "scores", _SCORES):
        known = _details(details)
        imported.entries.append(
            Score(
                str(key),
                str(method),
                score,
                known.get("low"),
                known.get("high"),
                known.get("chance"),
                known.get("n_trials"),
                known.get("n_failed") or 0,
                imported.author,
            )
        )


def _details(text: Any) -> dict[str, Any]:
    """The numbers that `write` puts into details; other programs' details are left out."""
    try:
        details = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return {}
    if not isinstance(details, dict) or not details.keys() <= set(_DETAILS):
        return {}
    return details


def write(path: Path, history: History, run: str) -> int:
    """Write what holds now; returns the number of components."""
    import polars as pl

    now = history.current()
    labelled = now.filter(pl.col("label").is_not_null())
    with atomic_path(path) as temporary, closing(sqlite3.connect(temporary)) as database:
        database.executescript(_SCHEMA)
        database.executemany(
            "INSERT INTO interpretations VALUES (?, ?, ?, ?, '', '')",
            [
                (row["component_key"], row["label"], _word(row["confidence"]), row["reason"])
                for row in labelled.to_dicts()
            ],
        )
        database.executemany("INSERT INTO scores VALUES (?, ?, ?, ?)", score_rows(history))
        database.execute("INSERT INTO config VALUES ('run', ?)", (json.dumps(run),))
        database.commit()
    return len(now)


def score_rows(history: History) -> list[tuple[str, str, float, str]]:
    """The scores that hold now, as rows of the table `scores`."""
    import polars as pl

    from harvest_assets.interpretations.current import newest_scores

    _, scores, _ = history.of_this_checkpoint()
    newest = newest_scores(scores, history.current()).filter(~pl.col("outdated"))
    return [
        (
            row["component_key"],
            row["method"],
            row["score"],
            json.dumps({name: row[name] for name in _DETAILS}),
        )
        for row in newest.to_dicts()
    ]


def _word(confidence: float | None) -> str:
    """The nearest word; `medium` where nothing is known, since the column must have one."""
    if confidence is None:
        return "medium"
    return min(_CONFIDENCE, key=lambda word: abs(_CONFIDENCE[word] - confidence))
