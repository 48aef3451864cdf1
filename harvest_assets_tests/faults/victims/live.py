"""The process that holds a model: it is killed, or the one that asks it."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import dagster as dg
import psutil

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.live import live_model
from harvest_assets.live.live_model import LiveModel
from harvest_assets.live.opened_run import OpenedRun
from harvest_assets.live.prompt import PROMPT, PromptAnswer, PromptQuestion, answer_prompt
from harvest_assets_tests.faults.kills import Victim
from harvest_assets_tests.faults.processes import Point, from_child, in_child
from harvest_assets_tests.tiny_harvest import TinyHarvest
from harvest_assets_tests.tiny_run import write_world

QUESTION = PromptQuestion(text="harvest the shard")
_N_QUESTIONS = 3
_SECONDS_TO_OPEN = 4.0  # or less, on a quiet machine
_SECONDS_TO_END = 20.0
_OF_MODEL = ("opening a model", "answering")


class LiveVictim(Victim):
    """A process asks; if that of its model is killed, it asks again."""

    points = (
        Point(_OF_MODEL[0], live_model._Process, "start"),
        Point(_OF_MODEL[1], live_model._Process, "send"),
        Point("opening, the parent", live_model._Process, "start"),
        Point("answering, the parent", live_model._Process, "send"),
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._name = f"live-{os.getpid()}"  # by which its processes are found
        in_child(self._harvest)
        self._right = from_child(self._answer)

    def _harvest(self) -> None:
        logging.disable(logging.WARNING)
        with dg.DagsterInstance.ephemeral() as instance:
            TinyHarvest.of(instance, write_world(self.folder / "world"), self._name).harvest()

    def _answer(self) -> PromptAnswer:
        return answer_prompt(OpenedRun(HarvestLayout.of(self._name)), QUESTION)

    def begin(self, *, over_old: bool) -> None:
        pass

    def work(self) -> None:
        live = LiveModel()
        for _ in range(_N_QUESTIONS):
            try:
                answer = self._asked(live)
            except HarvestError as error:
                assert "signal 9" in str(error)  # noqa: PT017 - others are raised again
                answer = self._asked(live)
            assert answer == self._right
        live.close()

    def _asked(self, live: LiveModel) -> PromptAnswer:
        return live.ask(HarvestLayout.of(self._name), PROMPT, QUESTION)

    def delay(self, stage: str, draw: float) -> float:
        return draw * (_SECONDS_TO_OPEN if stage.startswith("opening") else 0.03)

    def kill(self, pid: int, stage: str) -> int:
        if stage in _OF_MODEL:
            while not (models := self._models()) and psutil.Process(pid).status() != "zombie":
                time.sleep(0.005)
            for model in models:
                with suppress(psutil.NoSuchProcess):
                    model.kill()
                    return model.pid
            return 0
        os.kill(pid, signal.SIGKILL)
        return pid

    def after_kill(self) -> Iterator[str]:
        deadline = time.monotonic() + _SECONDS_TO_END
        while models := self._models():
            if time.monotonic() > deadline:
                yield f"{len(models)} processes are left over"
                return
            time.sleep(0.05)

    def after_rerun(self) -> Iterator[str]:
        yield from self.after_kill()

    def _models(self) -> list[psutil.Process]:
        """The running processes with its model, whosever child they are."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.cmdline()[-1:] == [self._name]:
                    found.append(process)
        return found
