"""Which entries of an imported file are new: of one that was exported, those that were edited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harvest_assets.errors import HarvestError
from harvest_assets.interpretations.entries import Edit, Entry, Label
from harvest_assets.interpretations.exchange.imported import Imported

if TYPE_CHECKING:
    from harvest_assets.interpretations.storage import History

_EMPTY: dict[str, Any] = {"label": "", "note": "", "starred": False, "tags": ()}


def changed(imported: Imported, history: History) -> tuple[list[Entry], list[str]]:
    """The entries that differ from what holds now.

    A label that differs under the same author was edited in the file, and becomes the file's.

    Args:
        imported: what a file holds.
        history: all that was written.

    Returns:
        The entries, and the keys of those labels among them that are not shown, since a person's
        label comes first.

    Raises:
        HarvestError: a label by a person was edited, and it is not known who did.
    """
    now = {row["component_key"]: row for row in history.current().to_dicts()}
    below = _not_by_people(history)
    new: list[Entry] = []
    outranked = []
    for entry in imported.entries:
        key = entry.component_key
        row = now.get(key, {})
        if _holds(entry, row, imported):
            continue
        if isinstance(entry, Label):
            if _holds(entry, below.get(key, {}), imported):
                continue
            entry = _by_its_editor(entry, row, imported)  # noqa: PLW2901
            if entry.source != "person" == row.get("label_source"):
                outranked.append(key)
        new.append(entry)
    return new, outranked


def _not_by_people(history: History) -> dict[str, dict[str, Any]]:
    """The labels that would hold if no person had written one."""
    import polars as pl

    from harvest_assets.interpretations.current import current

    labels, scores, edits = history.of_this_checkpoint()
    mine = current(labels.filter(pl.col("source") != "person"), scores.clear(), edits.clear())
    return {row["component_key"]: row for row in mine.to_dicts()}


def _by_its_editor(label: Label, row: Mapping[str, Any], imported: Imported) -> Label:
    if (label.source, label.author) != (row.get("label_source"), row.get("label_author")):
        return label
    if label.source == "person" != imported.source:
        raise HarvestError(
            f"The label of {label.component_key} by {label.author} was changed in the file; give "
            "--person to say who changed it. Nothing was kept."
        )
    return replace(label, source=imported.source, author=imported.author)


def _holds(entry: Entry, row: Mapping[str, Any], imported: Imported) -> bool:
    if isinstance(entry, Edit):
        value = row.get(entry.field) or _EMPTY[entry.field]
        return bool((tuple(value) if isinstance(value, list) else value) == entry.value)
    if isinstance(entry, Label):
        # A person who gives the label of a model confirms it.
        confirms = entry.source == "person" != row.get("label_source")
        # As an empty cell, what a file leaves out says nothing.
        said: dict[str, Any] = {"label": entry.label, "reason": entry.reason or None}
        said["confidence"] = None if imported.confidence_in_words else entry.confidence
        same = all(value in (None, row.get(name)) for name, value in said.items())
        return same and not confirms
    return bool(row.get(f"score_{entry.method}") == entry.score)
