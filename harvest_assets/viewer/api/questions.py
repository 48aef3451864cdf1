"""Endpoints that ask the model of a run; they wait for its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Query
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.sanitize import presentable
from harvest_assets.live.ablation import ABLATE, AblateQuestion
from harvest_assets.live.kind import A, Kind, Q
from harvest_assets.live.prompt import PROMPT, PromptQuestion, whole_numbers
from harvest_assets.live.weights import WEIGHTS, WeightsQuestion
from harvest_assets.viewer.answering import answered, chosen_keys, with_tokens
from harvest_assets.viewer.api.harvests import Key, Run, harvest_of
from harvest_assets.viewer.api.responses import NotStored, NotStoredText
from harvest_assets.viewer.asking import BusyError
from harvest_assets.viewer.harvest import Harvest
from harvest_assets.viewer.prompted import described

Text = Annotated[str | None, Query(description="to compute; or ids")]
Ids = Annotated[str | None, Query(description="token ids, with blanks or commas between them")]
At = Annotated[int | None, Query(description="list this position alone, from the end if negative")]
Keys = Annotated[tuple[str, ...], Query(description="keys of components; may be repeated")]


async def prompt(
    request: Request,
    run: Run,
    text: Text = None,
    ids: Ids = None,
    component: Annotated[str | None, Query(description="whose values are wanted")] = None,
    at: At = None,
    top: Annotated[int | None, Query(description="components of a position, 50 by default")] = None,
    predictions: Annotated[int | None, Query(description="next tokens, 10 by default")] = None,
) -> Response:
    """Which components fire on a text, and what the model predicts."""

    def question() -> PromptQuestion:
        if component:
            harvest.place_of(component)  # else it is refused before a model is opened
        numbers = _given(at=at, top=top, predictions=predictions)
        return PromptQuestion(text=text, ids=_ids(ids), component=component, **numbers)

    harvest = await run_in_threadpool(harvest_of, request, run)
    answer = await _answer(request, harvest, PROMPT, question)
    return await run_in_threadpool(
        lambda: NotStoredText(described(harvest, answer, component).model_dump_json())
    )


async def ablate(
    request: Request,
    run: Run,
    text: Text = None,
    ids: Ids = None,
    without: Keys = (),
    only: Keys = (),
    only_firing: Annotated[bool, Query(description="keep those that fire")] = False,
    with_rest: Annotated[bool, Query(description="what no component explains stays")] = False,
    listed: Annotated[
        str, Query(alias="list", description="a list of components, added to those chosen")
    ] = "",
    at: At = None,
    top: Annotated[int | None, Query(description="tokens in a list, 10 by default")] = None,
) -> Response:
    """What the model predicts on a text without some of its components; see `docs/asking.md`."""
    harvest = await run_in_threadpool(harvest_of, request, run)

    def question() -> AblateQuestion:
        return AblateQuestion(
            text=text,
            ids=_ids(ids),
            **chosen_keys(HarvestLayout.of(harvest.name), listed, without, only),
            only_firing=only_firing,
            with_rest=with_rest,
            **_given(at=at, top=top),
        )

    answer = await _answer(request, harvest, ABLATE, question)
    return await run_in_threadpool(lambda: NotStored(with_tokens(harvest, answer)))


async def weights(
    request: Request,
    run: Run,
    key: Key,
    top: Annotated[int | None, Query(description="entries of a list, 10 by default")] = None,
) -> Response:
    """What the weights of a component say, without data."""
    harvest = await run_in_threadpool(harvest_of, request, run)
    harvest.place_of(key)  # else it is refused before a model is opened
    answer = await _answer(
        request, harvest, WEIGHTS, lambda: WeightsQuestion(component=key, **_given(top=top))
    )
    return await run_in_threadpool(lambda: NotStored(with_tokens(harvest, answer)))


async def _answer(
    request: Request, harvest: Harvest, kind: Kind[Q, A], question: Callable[[], Q]
) -> A:
    """The answer of the run's model.

    Raises:
        HTTPException: the question is not valid or has no answer (400), or too many wait (503).
    """
    try:
        asked = await run_in_threadpool(question)
        answer = await answered(request.app.state.asking, harvest, kind, asked)
    except HarvestError as error:
        status = 503 if isinstance(error, BusyError) else 400
        raise HTTPException(status, presentable(str(error), 1000)) from error
    assert answer is not None  # noqa: S101 - it waited
    return answer


def _ids(text: str | None) -> tuple[int, ...] | None:
    return None if text is None else tuple(whole_numbers(text))


def _given(**values: Any) -> dict[str, Any]:
    """Without what is left to its default."""
    return {name: value for name, value in values.items() if value is not None}
