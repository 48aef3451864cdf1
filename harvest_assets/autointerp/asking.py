"""Asking a model all open questions: several at once, within limits, each answer stored at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from anyio.from_thread import start_blocking_portal

from harvest_assets.autointerp.answers import Answer, AnswerBook, Question
from harvest_assets.autointerp.budget import Budget
from harvest_assets.autointerp.model import NoAnswerError, QuestionRefusedError
from harvest_assets.autointerp.settings import ModelSettings

_SECONDS_BETWEEN_SIGNALS = 0.2
# So many questions in a row without an answer, and the endpoint is taken to be down.
_MAX_UNANSWERED = 10
_OUTPUT_TOKENS = {"intruder": 60, "verdicts": 50, "label": 80}  # usual, for estimates


class Model(Protocol):
    """What can be asked.

    Attributes:
        budget: that its calls are counted against.
    """

    budget: Budget

    async def ask(self, question: Question) -> Answer:
        """The answer, usable or not.

        Raises:
            HarvestError: no question will be answered.
            QuestionRefusedError: this one will never be.
            NoAnswerError: this one was not.
        """

    async def close(self) -> None:
        """Release what is held."""


@dataclass
class Tally:
    """What was asked and what it took.

    Args:
        asked: questions with an answer, usable or not.
        calls: requests that were sent, repeated ones included.
        unusable: answers of no use.
        unanswered: questions without an answer; they are asked again next time.
        input_tokens: as reported by the endpoint.
        output_tokens: likewise.
        stopped: why not all were asked; empty if all were.
        problems: what was wrong with answers or calls, with how often.
    """

    asked: int = 0
    calls: int = 0
    unusable: int = 0
    unanswered: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    stopped: str = ""
    problems: dict[str, int] = field(default_factory=dict)

    def cost(self, settings: ModelSettings) -> float | None:
        """What was spent; None where a price, or what the endpoint counts, is not known."""
        if self.calls and not self.output_tokens:
            return None
        return settings.cost(self.input_tokens, self.output_tokens)

    def count(self, problem: str) -> None:
        """Count a problem by its text."""
        if problem in self.problems or len(self.problems) < _MAX_UNANSWERED:
            self.problems[problem] = self.problems.get(problem, 0) + 1


@dataclass(frozen=True)
class Estimate:
    """What asking would take.

    Args:
        calls: one for each question.
        input_tokens: roughly.
        output_tokens: roughly; models that think first take more.
        cost: in the unit of the prices; None where these are not known.
    """

    calls: int
    input_tokens: int
    output_tokens: int
    cost: float | None


def estimate(questions: Iterable[Question], settings: ModelSettings) -> Estimate:
    """What asking the questions would take; nothing is sent."""
    calls = input_tokens = output_tokens = 0
    for question in questions:
        calls += 1
        input_tokens += question.prompt.n_tokens
        output_tokens += _OUTPUT_TOKENS[question.kind]
    return Estimate(calls, input_tokens, output_tokens, settings.cost(input_tokens, output_tokens))


class Asker:
    """Asks the questions that have no answer yet.

    Args:
        model: that is asked.
        settings: with the concurrency.
        book: where answers are stored.
        watch: is called after each question with the tally.
    """

    def __init__(
        self,
        model: Model,
        settings: ModelSettings,
        book: AnswerBook,
        watch: Callable[[Tally], None] = lambda _: None,
    ) -> None:
        self._model = model
        self._settings = settings
        self._book = book
        self._watch = watch
        self.tally = Tally()
        self._budget = model.budget
        self._in_a_row = 0
        self._refusals: list[Answer] = []  # before the first answer
        self._asked: set[str] = set()
        self._in_flight = 0
        self._settled = asyncio.Condition()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        # In a thread of its own: a signal interrupts the main thread, which then cancels the calls.
        # Raised inside the event loop, it could leave a lock taken for ever.
        self._portal = self._stack.enter_context(start_blocking_portal())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._portal.call(self._model.close)
        self._stack.__exit__(kind, error, trace)

    def ask(self, questions: Iterable[Question]) -> None:
        """Ask all that have no answer, until a limit is reached or the endpoint fails.

        Raises:
            HarvestError: the endpoint refuses all questions.
        """
        open_ = (it for it in questions if self._book.get(it) is None)
        try:
            asked = self._portal.start_task_soon(self._ask_all, open_)
            while not wait([asked], _SECONDS_BETWEEN_SIGNALS).done:
                pass  # a signal is handled here
            asked.result()
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        except BaseException as error:
            if not isinstance(error, Exception):
                self.tally.stopped = "interrupted"  # no worker begins another question
            raise

    async def _ask_all(self, questions: Iterator[Question]) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._settings.concurrency):
                group.create_task(self._work(questions))

    async def _work(self, questions: Iterator[Question]) -> None:
        """One of the workers, which share the questions."""
        for question in questions:
            if question.prompt.sha256 in self._asked:  # of equal prompts, one is asked
                continue
            if not await self._reserved(question):
                return
            await self._ask_one(question)

    async def _reserved(self, question: Question) -> bool:
        """Whether the question may be asked; waits while those in flight decide about that."""

        def decided() -> bool:
            return not self._in_flight or not self._budget.exceeded_by(question)

        async with self._settled:
            await self._settled.wait_for(decided)
            self.tally.stopped = self.tally.stopped or self._budget.exceeded_by(question)
            if self.tally.stopped:
                return False
            self._asked.add(question.prompt.sha256)
            self._in_flight += 1
            self._budget.reserve(question)
            return True

    async def _ask_one(self, question: Question) -> None:
        answer = None
        try:
            answer = await self._model.ask(question)
        except QuestionRefusedError as error:
            answer = error.answer
            self._refused(answer, str(error))
        except NoAnswerError as error:
            self.tally.calls += error.calls
            self._missed(str(error))
        else:
            self._take(answer)
        async with self._settled:
            self._in_flight -= 1
            if answer is not None:
                self._budget.settle(question, answer)
            self._settled.notify_all()
        self._watch(self.tally)

    def _missed(self, problem: str) -> None:
        self.tally.unanswered += 1
        self.tally.count(problem)
        self._in_a_row += 1
        if self._in_a_row >= _MAX_UNANSWERED:
            self.tally.stopped = f"{self._in_a_row} questions in a row without an answer: {problem}"

    def _refused(self, answer: Answer, problem: str) -> None:
        """Store a refusal as an answer of no use, once it is clear that others are answered."""
        if self.tally.asked:
            self._take(answer)
        else:
            self._refusals.append(answer)
            self.tally.calls += answer.calls
            self._missed(problem)

    def _take(self, answer: Answer) -> None:
        for it in (answer, *self._refusals):
            self._book.add([it])
            self._count(it)
        self.tally.calls -= sum(it.calls for it in self._refusals)  # counted twice
        self.tally.unanswered -= len(self._refusals)
        self._refusals.clear()

    def _count(self, answer: Answer) -> None:
        self._in_a_row = 0
        self.tally.asked += 1
        self.tally.calls += answer.calls
        self.tally.input_tokens += answer.input_tokens
        self.tally.output_tokens += answer.output_tokens
        if answer.problem:
            self.tally.unusable += 1
            self.tally.count(answer.problem)
