"""The page of what the weights of a component say."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from harvest_assets.live.weights import WEIGHTS, WeightsAnswer, WeightsQuestion
from harvest_assets.viewer.answering import AskedPages, asks_again, knows
from harvest_assets.viewer.harvest import Harvest
from harvest_assets.viewer.rendering import html_page


class WeightsPages(AskedPages):
    """Answers requests about weights from the harvests of a library."""

    async def page(self, request: Request) -> Response:
        """What the weights of a component say."""
        harvest = await self.harvest(request)
        key = request.path_params["key"]
        is_open = self.is_open(harvest)
        answer, error = await self.answer(harvest, WEIGHTS, WeightsQuestion(component=key))
        return await run_in_threadpool(_rendered, harvest, key, answer, error, is_open=is_open)


def _rendered(
    harvest: Harvest, key: str, answer: WeightsAnswer | None, error: str | None, *, is_open: bool
) -> Response:

    response = html_page(
        "weights.html",
        200 if error is None else 400,
        harvest=harvest,
        key=key,
        answer=answer,
        error=error,
        is_open=is_open,
        known=knows(harvest),
    )
    return response if answer or error else asks_again(response)
