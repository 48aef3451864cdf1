from __future__ import annotations

import json
from pathlib import Path

import pytest

from harvest_assets.atomic import atomic_path, write_json


def test_a_file_appears_whole(tmp_path: Path):
    path = tmp_path / "new" / "file.json"
    write_json(path, {"a": [1, 2.5, None]})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    assert list(path.parent.iterdir()) == [path]


def write_half(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        msg = "power"
        raise RuntimeError(msg)


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="power"):
        write_half(path)
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
