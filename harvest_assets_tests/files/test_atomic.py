from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harvest_assets.files.atomic import atomic_path, sweep, write_json


def test_a_file_appears_whole(tmp_path: Path):
    path = tmp_path / "new" / "file.json"
    write_json(path, {"a": [1, 2.5, None]})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    assert list(path.parent.iterdir()) == [path]


def write_half(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("power")


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="power"):
        write_half(path)
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("nan"))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_never_replaces_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
):
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "new" / "file.json"
    write_json(path, 1, new=True)
    with pytest.raises(FileExistsError):
        write_json(path, 2, new=True)
    assert path.read_text() == "1\n"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_process_left_is_swept_when_it_has_ended(tmp_path: Path):
    """Also where nobody takes note of its end, as in a container whose process 1 does not."""
    code = """
import os, sys
from pathlib import Path
from harvest_assets.files.atomic import temporary_beside
temporary_beside(Path(sys.argv[1])).touch()
sys.stdin.readline()
os.kill(os.getpid(), 9)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "file")], stdin=subprocess.PIPE
    )
    try:
        while not list(tmp_path.iterdir()):
            assert process.poll() is None
        sweep(tmp_path)
        assert list(tmp_path.iterdir())
    finally:
        assert process.stdin
        process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())
    process.wait()
