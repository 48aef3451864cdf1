"""CSV: a header and one row for each component, with what holds now.

Columns: component_key, label, label_source, label_author, confidence, reason, note, starred, tags
(separated by commas), and `score_<method>` for each method. Only the first is needed, and an empty
cell says nothing. Intervals of scores are not in it. A text that a spreadsheet would take for a
formula begins with `'`, which is not part of it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import atomic_path
from harvest_assets.files.sanitize import csv_text, text_of_csv
from harvest_assets.files.untrusted import read_bytes
from harvest_assets.interpretations.entries import MAX_NOTE, Edit, Score
from harvest_assets.interpretations.exchange.imported import Imported

if TYPE_CHECKING:
    from harvest_assets.interpretations.storage import History

_MAX_BYTES = 256 << 20
_KEY = "component_key"
_SCORE = "score_"
_KNOWN = [_KEY, "label", "label_source", "label_author", "confidence", "reason", "note", "starred"]
_KNOWN += ["tags"]
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


def read(path: Path, imported: Imported) -> None:
    """Read all rows.

    Raises:
        HarvestError: a row is not valid; the message has its number.
        OSError: the file cannot be read.
    """
    try:
        text = read_bytes(path, _MAX_BYTES).decode("utf-8-sig")
        csv.field_size_limit(4 * MAX_NOTE)
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = rows.fieldnames or []
        if _KEY not in names or len(set(names)) < len(names):
            raise HarvestError(f"{path} has no column {_KEY}, or a column twice.")
        imported.ignored += [n for n in names if n not in _KNOWN and not n.startswith(_SCORE)]
        for row in rows:
            try:
                _read_row(
                    {name: text_of_csv((cell or "").strip()) for name, cell in row.items()},
                    imported,
                )
            except (HarvestError, AttributeError) as error:
                why = "it has too many cells" if None in row else reason_of(error)
                raise HarvestError(f"{path}, line {rows.line_num}: {why}.") from error
    except (ValueError, csv.Error) as error:
        raise HarvestError(f"{path} is not a CSV file: {reason_of(error)}.") from error


def _read_row(row: Mapping[str, str], imported: Imported) -> None:
    key, author = row[_KEY], row.get("label_author") or imported.author
    if label := row.get("label"):
        imported.add_label(
            key,
            label,
            confidence=_number("confidence", row.get("confidence", "")),
            reason=row.get("reason", ""),
            source=row.get("label_source") or None,  # type: ignore[arg-type]
            author=author,
        )
    if note := row.get("note"):
        imported.entries.append(Edit(key, "note", note, imported.author))
    if starred := row.get("starred", "").lower():
        if starred not in _TRUE + _FALSE:
            raise HarvestError(f"starred is {starred[:50]!r}; expected true or false")
        imported.entries.append(Edit(key, "starred", starred in _TRUE, imported.author))
    if tags := row.get("tags"):
        imported.entries.append(Edit(key, "tags", tuple(tags.split(",")), imported.author))
    for name, cell in row.items():
        if name.startswith(_SCORE) and (score := _number(name, cell)) is not None:
            method = name.removeprefix(_SCORE)
            entry = Score(key, method, score, None, None, None, None, 0, imported.author)
            imported.entries.append(entry)


def _number(name: str, cell: str) -> float | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        raise HarvestError(f"{name} is {cell[:50]!r}; expected a number") from None


def write(path: Path, history: History, run: str) -> int:  # noqa: ARG001 - as the other formats
    """Write what holds now; returns the number of components."""
    rows = history.current().to_dicts()
    names = list(rows[0]) if rows else _KNOWN
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in row.items()})
    return len(rows)


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else None
    text = ", ".join(value) if isinstance(value, list) else value
    return csv_text(text) if isinstance(text, str) else text
