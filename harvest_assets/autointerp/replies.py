"""Reading what a model answers: the last JSON object of its text that is of the expected form."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, TypeAdapter, ValidationError

from harvest_assets.autointerp.scoring import Verdict
from harvest_assets.autointerp.trials import Method, Trial
from harvest_assets.interpretations.entries import MAX_LABEL, MAX_REASON

Kind = Literal["intruder", "verdicts", "label"]

_MAX_CHARACTERS = 100_000
_MAX_OBJECTS = 1_000
_Reason = Annotated[str, Field(default="", max_length=MAX_REASON)]


class IntruderReply(BaseModel):
    """Which of the contexts is the intruder, counted from 1."""

    intruder: Annotated[int, Field(ge=1)]
    reason: _Reason


class VerdictsReply(BaseModel):
    """A verdict for each context."""

    verdicts: list[bool]


class LabelReply(BaseModel):
    """A label with the model's confidence in it."""

    label: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_LABEL)
    ]
    confidence: Annotated[float, Field(ge=0, le=1)]
    reason: _Reason


Reply = IntruderReply | VerdictsReply | LabelReply
_KINDS: dict[Kind, TypeAdapter[Reply]] = {
    "intruder": TypeAdapter(IntruderReply),
    "verdicts": TypeAdapter(VerdictsReply),
    "label": TypeAdapter(LabelReply),
}


def kind_of(method: Method) -> Kind:
    """What is expected of the answer to a trial."""
    return "verdicts" if method.needs_label else "intruder"


def read_reply(text: str, kind: Kind, n_contexts: int) -> Reply:
    """The answer in a model's text.

    Args:
        text: anything; the last JSON object in it that has the right keys counts.
        kind: of the answer.
        n_contexts: contexts that were shown.

    Raises:
        ValueError: there is no such object, or a value in it is not valid.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"the answer is longer than {_MAX_CHARACTERS:,} characters")
    objects = [it for it in _objects(text) if kind in it]
    if not objects:
        raise ValueError(f"the answer holds no JSON object with the key {kind!r}")
    try:
        reply = _KINDS[kind].validate_python(objects[-1])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if isinstance(reply, IntruderReply) and reply.intruder > n_contexts:
        raise ValueError(f"intruder is {reply.intruder}, of {n_contexts} texts")
    if isinstance(reply, VerdictsReply) and len(reply.verdicts) != n_contexts:
        raise ValueError(f"it has {len(reply.verdicts)} verdicts for {n_contexts} texts")
    return reply


def verdict_of(reply: Reply, trial: Trial) -> Verdict:
    """What a reply says of each context of a trial."""
    if isinstance(reply, IntruderReply):
        return tuple(n == reply.intruder for n in range(1, len(trial.contexts) + 1))
    assert isinstance(reply, VerdictsReply)  # noqa: S101
    return tuple(reply.verdicts)


def _objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects in a text that are not part of another."""
    decoder, found, at = json.JSONDecoder(), [], text.find("{")
    for _ in range(_MAX_OBJECTS):
        if at < 0:
            break
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            found.append(value)
        at = text.find("{", end)
    return found
