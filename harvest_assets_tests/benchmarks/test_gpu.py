from __future__ import annotations

import json
from pathlib import Path

from benchmarks import gpu


def test_a_part_that_fails_does_not_stop_the_others(tmp_path: Path):
    def fails() -> gpu.Rows:
        raise ImportError("no module named triton")

    parts = {"one": fails, "two": lambda: [["kernel", "ms"], ["sum", 1234.5]]}
    assert gpu.run(parts, tmp_path, seconds=60) == 1
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert "no module named triton" in report["one"]["failure"]
    assert report["two"]["table"][1] == ["sum", 1234.5]
    written = (tmp_path / "gpu.md").read_text()
    assert "no module named triton" in written
    assert "| sum | 1,234 |" in written


def test_no_part_begins_after_the_time_is_up(tmp_path: Path):
    begun = []
    parts = {name: lambda name=name: begun.append(name) or [["a"]] for name in ("one", "two")}
    assert gpu.run(parts, tmp_path, seconds=-1) == 1
    assert begun == []
    assert gpu.run(parts, tmp_path, seconds=60) == 0
    assert begun == ["one", "two"]
