"""What pages and JSON of questions to a model share: waiting, errors, the texts of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.sanitize import presentable
from harvest_assets.live.kind import A, Answer, Kind, Q
from harvest_assets.viewer.asking import Asking
from harvest_assets.viewer.harvest import Harvest
from harvest_assets.viewer.interpreted import interpreted
from harvest_assets.viewer.library import Library
from harvest_assets.viewer.portrait import shown_tokens

if TYPE_CHECKING:
    from harvest_assets.data.vocabulary import ShownToken

# How long a page waits for an answer before it says so, and until it asks again.
PATIENCE_SECONDS = 1.0
_RETRY_SECONDS = 1


def asks_again(response: Response) -> Response:
    """A page that the browser asks for again, because its answer is not there yet."""
    response.headers["Refresh"] = str(_RETRY_SECONDS)
    return response


def with_tokens(harvest: Harvest, answer: Answer) -> dict[str, Any]:
    """An answer in JSON values, each `token_id` with the token's text beside it."""

    def extended(value: Any) -> Any:
        if isinstance(value, list):
            return [extended(each) for each in value]
        if not isinstance(value, dict):
            return value
        fields = {name: extended(each) for name, each in value.items()}
        if "token_id" not in fields:
            return fields
        return {"token": harvest.vocabulary.text(fields["token_id"]), **fields}

    found: dict[str, Any] = extended(answer.model_dump(mode="json"))
    return {"run": harvest.run, **found}


def knows(
    harvest: Harvest,
) -> Callable[[str], tuple[str | None, list[ShownToken], list[ShownToken]] | None]:
    """Label, reads and predicts of a component by its key; None where the results lack it."""
    written = interpreted(harvest)

    def known(key: str) -> tuple[str | None, list[ShownToken], list[ShownToken]] | None:
        place = harvest.places.get(key)
        if place is None:
            return None
        return (written.of(place)["label"], *shown_tokens(harvest, place))

    return known


class AskedPages:
    """Opens harvests and asks their models, for pages and JSON.

    Args:
        library: the harvests.
        asking: asks the models.
    """

    def __init__(self, library: Library, asking: Asking) -> None:
        self._library = library
        self._asking = asking

    async def harvest(self, request: Request) -> Harvest:
        """The harvest that an address names."""
        return await run_in_threadpool(self._library.get, request.path_params["run"])

    def is_open(self, harvest: Harvest) -> bool:
        """Whether the model of a harvest's run is open."""
        return self._asking.is_open(HarvestLayout.of(harvest.name))

    async def answer(
        self, harvest: Harvest, kind: Kind[Q, A], question: Q
    ) -> tuple[A | None, str | None]:
        """The answer for a page, and why there is none; neither while it must wait."""
        paths = HarvestLayout.of(harvest.name)
        try:
            answer = await self._asking.answer(paths, kind, question, PATIENCE_SECONDS)
        except HarvestError as error:
            return None, presentable(str(error), 1000)
        return answer, None
