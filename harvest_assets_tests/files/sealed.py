"""The digest of a small JSON file, as the page about the formats describes it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """The mapping with a digest that fits it."""
    rest = {key: part for key, part in value.items() if key != "digest"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return {**rest, "digest": digest}


def change(path: Path, **changes: Any) -> None:
    """Change keys of a file and make its digest fit."""
    path.write_text(json.dumps(sealed({**json.loads(path.read_bytes()), **changes})))
