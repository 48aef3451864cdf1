"""delphi's explanations: a folder of files `<module>_latent<index>.txt`, each one JSON string."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import fsync_path, remove, temporary_beside
from harvest_assets.files.layout import is_folder_name
from harvest_assets.files.untrusted import read_json, text_of
from harvest_assets.interpretations.exchange.imported import Imported

if TYPE_CHECKING:
    from harvest_assets.interpretations.storage import History

_NAME = re.compile(r"(?P<module>.+)_latent(?P<index>\d{1,9})\.(?:txt|json)")
_MAX_BYTES = 1 << 20


def read(path: Path, imported: Imported) -> None:
    """Read the files of a folder, without those in folders below it.

    Raises:
        HarvestError: a file is not one JSON string, or no file has such a name.
        OSError: a file cannot be read.
    """
    found = 0
    for file in sorted(path.iterdir()):
        match = _NAME.fullmatch(file.name)
        if match is None:
            imported.ignored.append(file.name)
            continue
        try:
            text = text_of(read_json(file, _MAX_BYTES))
            imported.add_label(f"{match['module']}:{int(match['index'])}", text)
        except (ValueError, TypeError, HarvestError) as error:
            raise HarvestError(f"{file} is not an explanation: {reason_of(error)}.") from error
        found += 1
    if not found:
        raise HarvestError(f"{path} has no explanations; expected <module>_latent<index>.txt.")


def write(path: Path, history: History, run: str) -> int:  # noqa: ARG001 - as the other formats
    """Write a folder with the labels that hold now; returns their number.

    Raises:
        HarvestError: the name of a layer cannot be that of a file.
    """
    rows = history.current().drop_nulls("label").select("component_key", "label").rows()
    temporary = temporary_beside(path)
    temporary.mkdir(parents=True)
    try:
        for key, label in rows:
            layer, _, index = key.rpartition(":")
            name = f"{layer}_latent{index}.txt"
            if not is_folder_name(name):
                raise HarvestError(f"{name[:200]!r} cannot be the name of a file.")
            (temporary / name).write_text(json.dumps(label, ensure_ascii=False), encoding="utf-8")
        temporary.rename(path)
        fsync_path(path.parent)
    finally:
        remove(temporary)
    return len(rows)
