"""A kind of question: its model, the model of its answer, and the function that answers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from harvest_assets.errors import HarvestError
from harvest_assets.live.opened_run import OpenedRun
from harvest_assets.settings import CheckedModel

MAX_TOP = 1000  # entries of a list


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
        spd_only: whether it is answered for SPD runs only.
    """

    name: str
    question: type[Q]
    answer: type[A]
    handle: Callable[[OpenedRun, Q], A]
    spd_only: bool = False

    def answered(self, run: OpenedRun, values: Mapping[str, Any]) -> str:
        """The JSON text of the answer to a question with these values."""
        return self.handle(run, self.question(**values)).model_dump_json()

    def require(self, decomposition: str, harvest: str) -> None:
        """Check that it can be answered, before a model is opened for it.

        Args:
            decomposition: the kind of decomposition.
            harvest: the folder's name.

        Raises:
            HarvestError: it is answered for SPD runs only, and this is none.
        """
        if self.spd_only and decomposition != "spd":
            raise HarvestError(
                f"{harvest} is of the kind {decomposition[:100]!r}; components that are parts of a "
                "model's weights, which can be taken out and say something by themselves, are "
                "found in SPD runs only."
            )
