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


PART = 'print("part " + json.dumps({"what": "a part", "seconds": 0, "cpu_seconds": 0}), flush=True)'


def test_a_short_part_has_memory_too():
    done: list[Step] = []
    command = f"import json, time; [{PART} for _ in range(5)]; time.sleep(1)"
    Steps({}, 1 << 30, done.append).run("whole", "-c", command)
    assert len(done) == 6
    assert all(step.memory > 1 << 20 for step in done[:-1])


# A server that takes too much memory when it is asked, as a program.
GREEDY = """
import socket, time
server = socket.create_server(("127.0.0.1", 0))
print(f"http://127.0.0.1:{server.getsockname()[1]}/ serves", flush=True)
server.accept()
taken = b"1" * (400 << 20)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("program", "problem"),
    [("raise SystemExit(3)", "status 3"), (GREEDY, "status -9.*memory")],
)
def test_a_server_that_ends_is_named(program: str, problem: str):
    steps = Steps({}, 300 << 20, lambda _: None)
    with pytest.raises(StepError, match=problem), steps.server("-c", program) as ask:
        ask("page", "/page")


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
