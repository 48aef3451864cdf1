"""Explanations in Neuronpedia's form: a JSON list, or one JSON mapping on each line.

Of each mapping, `layer`, `index`, `description` and `explanationModelName` are read. The layer is
that of the harvest: the place of a component is `layer:index`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import write_json
from harvest_assets.files.untrusted import parse_json, read_bytes, text_of
from harvest_assets.interpretations.exchange.imported import Imported

if TYPE_CHECKING:
    from harvest_assets.interpretations.storage import History

_MAX_BYTES = 256 << 20


def read(path: Path, imported: Imported) -> None:
    """Read all explanations.

    Raises:
        HarvestError: one is not valid; the message has its number.
        OSError: the file cannot be read.
    """
    try:
        records = _records(read_bytes(path, _MAX_BYTES))
    except ValueError as error:
        raise HarvestError(f"{path} is not JSON: {reason_of(error)}.") from error
    for number, record in enumerate(records, 1):
        try:
            imported.add_label(
                f"{record['layer']}:{_index(record['index'])}",
                text_of(record["description"]),
                author=text_of(record.get("explanationModelName") or ""),
            )
        except (KeyError, TypeError, ValueError, AttributeError, HarvestError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else reason_of(error)
            raise HarvestError(f"{path}, explanation {number}: {why}.") from error


def _index(value: Any) -> int:
    """A whole number, which may be written as a text."""
    if type(value) is int:
        return value
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,18}", value):
        raise ValueError(f"the index is {str(value)[:50]!r}; expected a whole number")
    return int(value)


def _records(content: bytes) -> list[Any]:
    if content.lstrip().startswith(b"["):
        records: list[Any] = parse_json(content)
        return records
    return [parse_json(line) for line in content.splitlines() if line.strip()]


def write(path: Path, history: History, run: str) -> int:
    """Write the labels that hold now; returns their number."""
    rows = history.current().drop_nulls("label").to_dicts()
    places = [row["component_key"].rpartition(":") for row in rows]
    write_json(
        path,
        [
            {
                "modelId": run,
                "layer": layer,
                "index": index,
                "description": row["label"],
                "typeName": "harvest_assets",
                "explanationModelName": row["label_author"],
            }
            for row, (layer, _, index) in zip(rows, places, strict=True)
        ],
    )
    return len(rows)
