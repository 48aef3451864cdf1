"""The process that holds a model: when it starts, and that it ends whatever happens."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.live import live_model
from harvest_assets.live.live_model import LiveModel
from harvest_assets.live.opened_run import OpenedRun
from harvest_assets.live.prompt import PROMPT, PromptQuestion, answer_prompt
from harvest_assets_tests.tiny_harvest import FINISHED

pytestmark = pytest.mark.slow

QUESTION = PromptQuestion(text="harvest the shard")
PARENT = """
import sys, time
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.live.live_model import LiveModel
from harvest_assets.live.prompt import PROMPT, PromptQuestion
live = LiveModel()
live.ask(HarvestLayout.of(sys.argv[1]), PROMPT, PromptQuestion(text="harvest"))
assert "torch" not in sys.modules
print("answered", flush=True)
time.sleep(60)
"""


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def models() -> list[psutil.Process]:
    """The processes with a model that this process has started."""
    return [p for p in psutil.Process().children() if "harvest_assets.live.process" in p.cmdline()]


@pytest.fixture
def paths(finished_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HarvestLayout:
    for name in (FINISHED, "other"):
        shutil.copytree(finished_out / "harvest" / FINISHED, tmp_path / "harvest" / name)
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path))
    return HarvestLayout.of(FINISHED)


@pytest.fixture
def live() -> Iterator[LiveModel]:
    live = LiveModel()
    yield live
    live.close()
    assert not models()


def test_a_model_is_open_from_the_first_question_until_another_runs(
    live: LiveModel, paths: HarvestLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert not models()
    (tmp_path / "torch.py").write_text("raise SystemExit('foreign code')")
    monkeypatch.chdir(tmp_path)
    answer = live.ask(paths, PROMPT, QUESTION)
    assert answer == answer_prompt(OpenedRun(paths), QUESTION)
    (first,) = models()
    assert live.is_open(paths)
    with pytest.raises(HarvestError, match="no tokens"):
        live.ask(paths, PROMPT, PromptQuestion(text=""))
    assert models() == [first]

    first.send_signal(signal.SIGSTOP)
    killer = threading.Timer(0.5, first.kill)
    killer.start()
    with pytest.raises(HarvestError, match="signal 9"):
        live.ask(paths, PROMPT, QUESTION)
    assert not live.is_open(paths)
    assert live.ask(paths, PROMPT, QUESTION) == answer
    (second,) = models()

    other = HarvestLayout.of("other")
    live.ask(other, PROMPT, QUESTION)
    (third,) = models()
    assert third != second
    assert not second.is_running()
    assert (live.is_open(other), live.is_open(paths)) == (True, False)


def test_a_model_is_closed_when_idle_and_when_time_is_up(
    live: LiveModel, paths: HarvestLayout, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HARVEST_LIVE_IDLE_SECONDS", "0.3")
    live.ask(paths, PROMPT, QUESTION)
    until(lambda: not live.is_open(paths))
    monkeypatch.setenv("HARVEST_LIVE_IDLE_SECONDS", "60")
    live.ask(paths, PROMPT, QUESTION)
    (process,) = models()
    process.send_signal(signal.SIGSTOP)
    monkeypatch.setenv("HARVEST_LIVE_ANSWER_SECONDS", "0.3")
    for what in ("not answer", "not open"):
        with pytest.raises(HarvestError, match=f"{what}.*HARVEST_LIVE_ANSWER_SECONDS"):
            live.ask(paths, PROMPT, QUESTION)
        assert not models()


def test_a_model_is_closed_while_a_thread_waits_for_it(live: LiveModel, paths: HarvestLayout):
    threading.Timer(0.5, live.close).start()
    with pytest.raises(HarvestError, match="stopped"):
        live.ask(paths, PROMPT, QUESTION)
    with pytest.raises(HarvestError, match="stopped"):
        live.ask(paths, PROMPT, QUESTION)


def test_a_model_that_is_started_while_the_viewer_stops_ends(
    live: LiveModel, paths: HarvestLayout, monkeypatch: pytest.MonkeyPatch
):
    start = live_model._Process.start

    def started(*given):
        live.close()  # which does not see the process
        return start(*given)

    monkeypatch.setattr(live_model._Process, "start", started)
    with pytest.raises(HarvestError, match="stopped"):
        live.ask(paths, PROMPT, QUESTION)
    assert not models()


def test_a_model_ends_with_its_parent(paths: HarvestLayout):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, paths.root.name], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout.readline() == "answered\n"
        (model,) = psutil.Process(parent.pid).children()
        os.kill(parent.pid, signal.SIGKILL)
    until(lambda: not model.is_running() or model.status() == psutil.STATUS_ZOMBIE)
