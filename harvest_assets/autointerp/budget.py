"""The limits of calls and cost of one command or materialization."""

from __future__ import annotations

from harvest_assets.autointerp.answers import Answer, Question
from harvest_assets.autointerp.settings import ModelSettings
from harvest_assets.errors import counted

_ROUGHLY = 2  # a prompt is taken to have at most this many times its estimated tokens


class Budget:
    """What was used of the limits; a question in progress counts with the most it may cost.

    Args:
        settings: with the limits.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._calls = 0
        self._cost = 0.0

    @property
    def limit_of_calls(self) -> str:
        """In words."""
        return f"the limit of {counted(self._settings.max_calls or 0, 'call')}"

    def reserve(self, question: Question) -> None:
        """Count the first call of a question, and the most that all may cost."""
        self._calls += 1
        self._cost += self._most(question)

    def take_another_call(self) -> bool:
        """Count a further call of a question; False if the limit does not allow it."""
        if self._all_calls_taken():
            return False
        self._calls += 1
        return True

    def settle(self, question: Question, answer: Answer) -> None:
        """Count what a question cost instead, where the endpoint says."""
        if answer.output_tokens:
            used = self._settings.cost(answer.input_tokens, answer.output_tokens)
            self._cost += (used or 0.0) - self._most(question)

    def exceeded_by(self, question: Question) -> str:
        """The limit that another question might exceed; empty if none."""
        if self._all_calls_taken():
            return self.limit_of_calls
        most = self._settings.max_cost
        if most is not None and self._cost + self._most(question) > most:
            return f"the limit of cost, {most:g}"
        return ""

    def _all_calls_taken(self) -> bool:
        limit = self._settings.max_calls
        return limit is not None and self._calls >= limit

    def _most(self, question: Question) -> float:
        """The most that a question and what it is asked again may cost."""
        calls = 1 + self._settings.reasks
        longest = _ROUGHLY * question.prompt.n_tokens + (calls - 1) * self._settings.max_tokens
        return self._settings.cost(longest * calls, self._settings.max_tokens * calls) or 0.0
