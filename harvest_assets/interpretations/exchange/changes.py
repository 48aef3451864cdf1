"""What of a file is news: a file that was exported, edited and imported changes what was edited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from harvest_assets.interpretations.entries import Edit, Entry, Label
from harvest_assets.interpretations.exchange.imported import Imported

_EMPTY: dict[str, Any] = {"label": "", "note": "", "starred": False, "tags": ()}


def changed(imported: Imported, rows: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """The entries that differ from what holds now.

    A label with another text under the same author was edited in the file, and becomes the file's.

    Args:
        imported: what a file holds.
        rows: what holds now, as `current` gives it.
    """
    now = {row["component_key"]: row for row in rows}
    news: list[Entry] = []
    for entry in imported.entries:
        row = now.get(entry.component_key, {})
        if _holds(entry, row):
            continue
        author = (row.get("label_source"), row.get("label_author"))
        if isinstance(entry, Label) and (entry.source, entry.author) == author:
            news.append(replace(entry, source=imported.source, author=imported.author))
        else:
            news.append(entry)
    return news


def _holds(entry: Entry, row: Mapping[str, Any]) -> bool:
    if isinstance(entry, Edit):
        value = row.get(entry.field) or _EMPTY[entry.field]
        return bool((tuple(value) if isinstance(value, list) else value) == entry.value)
    if isinstance(entry, Label):
        # A person who gives the label of a model confirms it.
        confirms = entry.source == "person" != row.get("label_source")
        return entry.label == row.get("label") and not confirms
    return bool(row.get(f"score_{entry.method}") == entry.score)
