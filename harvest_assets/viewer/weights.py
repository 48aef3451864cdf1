"""The page and the JSON of what the weights of a component say."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from harvest_assets.errors import HarvestError
from harvest_assets.live.prompt import whole_numbers
from harvest_assets.live.weights import WEIGHTS, WeightsAnswer, WeightsQuestion
from harvest_assets.viewer.answering import AskedPages, asks_again, json_error, knows
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

    async def api(self, request: Request) -> Response:
        """The same as JSON."""
        try:
            harvest = await self.harvest(request)
        except HarvestError as error:
            return json_error(error, 404)
        try:
            top = whole_numbers(request.query_params.get("top", "10"))[0]
            question = WeightsQuestion(component=request.path_params["key"], top=top)
            return await self.json(harvest, WEIGHTS, question)
        except HarvestError as error:
            return json_error(error)


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
