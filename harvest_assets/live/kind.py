"""A kind of question: its model, the model of its answer, and the function that answers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from harvest_assets.live.opened_run import OpenedRun
from harvest_assets.settings import CheckedModel


class Question(CheckedModel):
    """What is asked, in plain values; a value that is not valid raises `HarvestError`."""


class Answer(BaseModel):
    """What is answered, in plain values."""

    # JSON has no NaN: it would arrive as nothing.
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


Q = TypeVar("Q", bound=Question)
A = TypeVar("A", bound=Answer)


@dataclass(frozen=True)
class Kind(Generic[Q, A]):
    """A kind of question.

    Args:
        name: unique among the kinds.
        question: the model of a question.
        answer: the model of its answer.
        handle: answers a question; raises `HarvestError` where that is impossible.
    """

    name: str
    question: type[Q]
    answer: type[A]
    handle: Callable[[OpenedRun, Q], A]

    def answered(self, run: OpenedRun, values: Mapping[str, Any]) -> str:
        """The JSON text of the answer to a question with these values."""
        return self.handle(run, self.question(**values)).model_dump_json()
