"""Scores and labels by a language model: killed while its answers are kept."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import anyio

from harvest_assets.autointerp import task as tasks
from harvest_assets.autointerp.answers import Answer, AnswerBook, Question, judged
from harvest_assets.autointerp.asking import Asker
from harvest_assets.autointerp.budget import Budget
from harvest_assets.autointerp.settings import ComponentChoice, ModelSettings
from harvest_assets.autointerp.task import Task
from harvest_assets.autointerp.trials import Method
from harvest_assets.files import lease
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets_tests.autointerp.one_token_each import write_one_token_each
from harvest_assets_tests.faults.kills import Victim
from harvest_assets_tests.faults.processes import Point, from_child, in_child, write_line

SETTINGS = ModelSettings(
    endpoint="http://127.0.0.1:1/v1", model="paid", concurrency=4, max_calls=30
)
_METHODS = (Method.INTRUDER, None)
_BEGUN = "begun"  # a line of the bill


class AnswersVictim(Victim):
    """Each question that is asked is written on a bill, as is each time that asking begins."""

    points = (
        Point("asking", Asker, "_ask_one"),
        Point("keeping an answer", AnswerBook, "add"),
        Point("new file of answers", AnswerBook, "_create"),
        Point("scores from answers", tasks._Stored, "take"),
        Point("report", tasks, "keep_report"),
        Point("lease of asking", lease, "_create"),
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._made = write_one_token_each(folder / "made")
        self._paths = HarvestLayout.of("work")
        self._bill, self._kept = folder / "bill", folder / "kept"
        self.begin(over_old=False)
        from_child(self.rerun)
        self._right = from_child(self._stored)

    def begin(self, *, over_old: bool) -> None:
        shutil.rmtree(self._paths.root, ignore_errors=True)
        shutil.copytree(self._made.root, self._paths.root)
        self._bill.write_text("")
        self._kept.write_text("[0, []]")
        if over_old:
            in_child(self.work)

    def work(self) -> None:
        """One attempt at each method, as far as the budget goes."""
        for method in _METHODS:
            self._attempt(method)

    def rerun(self) -> None:
        """Attempts until nothing is left to ask."""
        for method in _METHODS:
            while self._attempt(method):
                pass

    def _attempt(self, method: Method | None) -> str:
        """Ask within a budget; returns why not all was asked."""
        write_line(self._bill, _BEGUN)
        task = Task(self._paths, ComponentChoice(), method)
        return tasks.run(task, SETTINGS, _Paid(self._bill)).tally.stopped

    def after_kill(self) -> Iterator[str]:
        bill = self._bill.read_text().splitlines()
        n_checked, kept = json.loads(self._kept.read_text())
        if again := set(bill[n_checked:]) & set(kept):
            yield f"{len(again)} answers were paid for again"
        attempts = "\n".join(bill).split(_BEGUN)
        if max(len(attempt.split()) for attempt in attempts) > SETTINGS.max_calls:
            yield "a budget was exceeded"
        with AnswerBook(self._paths.answers, str(SETTINGS.model), SETTINGS.endpoint) as book:
            asked = set(bill) - {_BEGUN}
            kept_now = [sha256 for sha256 in asked if sha256 in book._answers]
        if set(kept) - set(kept_now):
            yield "an answer that was kept is gone"
        lost = len(bill) - bill.count(_BEGUN) - len(asked)
        if lost > SETTINGS.concurrency * len(attempts):
            yield f"{lost} answers were asked for that were not being asked for at a kill"
        self._kept.write_text(json.dumps([len(bill), kept_now]))
        if not set(self._stored()) <= set(self._right):
            yield "a score or a label is another"

    def after_rerun(self) -> Iterator[str]:
        yield from self.after_kill()
        if self._stored() != self._right:
            yield "the rerun ended with other scores or labels, or with some twice"
        yield from self.leftovers()

    def _stored(self) -> list[tuple[object, ...]]:
        history = Interpretations(self._paths).history()
        assert history.problems == ()
        labels = history.labels.select("component_key", "label", "confidence").rows()
        scores = history.scores.select("component_key", "score", "n_failed").rows()
        return sorted([*labels, *scores], key=str)


class _Paid:
    """Answers as it always does to the same question, a few milliseconds later."""

    def __init__(self, bill: Path) -> None:
        self.budget = Budget(SETTINGS)
        self._bill = bill

    async def ask(self, question: Question) -> Answer:
        write_line(self._bill, question.prompt.sha256)
        draw = random.Random(question.prompt.sha256)
        await anyio.sleep(draw.random() * 0.004)
        text = json.dumps(
            {"label": f"token {draw.randint(0, 99)}", "confidence": 0.5}
            if question.kind == "label"
            else {"intruder": draw.randint(1, question.n_contexts)}
        )
        model, endpoint = str(SETTINGS.model), str(SETTINGS.endpoint)
        return judged(question, model, text, endpoint=endpoint, calls=1, output_tokens=10)

    async def close(self) -> None:
        pass
