from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import sizes
from benchmarks.watched import Step, StepError, Steps


def test_a_step_that_takes_too_much_memory_is_ended():
    done: list[Step] = []
    steps = Steps({}, 300 << 20, done.append)
    steps.run("little", "-c", "print('fine')")
    with pytest.raises(StepError, match="memory"):
        steps.run("much", "-c", "import time; x = b'1' * (400 << 20); time.sleep(60)")
    assert [step.what for step in done] == ["little", "much"]
    assert done[0].note == "fine"
    assert done[1].memory > 300 << 20 > done[0].memory


def test_nothing_begins_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sizes.SIZES, "tiny", sizes.Size(1, 4, 10, 1, 0.0, 1 << 60))
    with pytest.raises(SystemExit, match="free"):
        sizes.measure_size("tiny", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="not empty"):
        sizes.measure_size("tiny", tmp_path)


@pytest.mark.rehearsal
def test_a_harvest_is_made_merged_and_read(tmp_path: Path):
    measured = sizes.measure_size("tiny", tmp_path)
    found = {step.what: step for step in measured.steps}
    assert found["verify"].note.endswith("everything agrees.")
    assert "view: page of the map" in found
    assert all(step.memory < 1 << 30 for step in measured.steps)
