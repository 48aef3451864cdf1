"""The API: its endpoints, and errors as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

import harvest_assets
from harvest_assets.errors import HarvestError
from harvest_assets.files.sanitize import presentable
from harvest_assets.live.ablation import AblateAnswer
from harvest_assets.live.weights import WeightsAnswer
from harvest_assets.viewer.api import components, harvests, methods, questions
from harvest_assets.viewer.api.models import Problem, Working
from harvest_assets.viewer.prompted import DescribedPrompt


class _NotStored(JSONResponse):
    """An answer that browsers do not store, as they store no page."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """See `Response`."""
        super().init_headers({"Cache-Control": "no-store", **(headers or {})})


@dataclass(frozen=True)
class Endpoint:
    """An address and the function that answers it.

    Args:
        path: below `/api`, with parameters in braces.
        answer: the function.
        model: of an answer, where the function does not declare it.
        computed: whether the first request may be answered by `harvests.working`.
        method: of the request.
    """

    path: str
    answer: Callable[..., Any]
    model: type[BaseModel] | None = None
    computed: bool = False
    method: str = "GET"


ENDPOINTS = (
    Endpoint("/harvests", harvests.harvests),
    Endpoint("/run/{run}", harvests.overview),
    Endpoint("/run/{run}/components", components.components),
    Endpoint("/run/{run}/component/{key:path}", components.component),
    Endpoint("/run/{run}/contexts", harvests.contexts, computed=True),
    Endpoint("/run/{run}/map", harvests.component_map, computed=True),
    Endpoint("/run/{run}/prompt", questions.prompt, model=DescribedPrompt),
    Endpoint("/run/{run}/ablate", questions.ablate, model=AblateAnswer),
    Endpoint("/run/{run}/weights/{key:path}", questions.weights, model=WeightsAnswer),
    Endpoint("/methods", methods.methods),
)


def make_api(state: dict[str, Any]) -> FastAPI:
    """The application below `/api`.

    Args:
        state: attributes of `app.state`.
    """
    kinds = (HTTPException, HarvestError, OSError, RequestValidationError)
    handlers: dict[Any, Any] = dict.fromkeys(kinds, _problem)
    app = FastAPI(
        title="harvest_assets",
        version=harvest_assets.__version__,
        description="What the pages of `harvest-assets view` show, as JSON.",
        docs_url=None,  # pages that load foreign scripts
        redoc_url=None,
        default_response_class=_NotStored,
        exception_handlers=handlers,
    )
    for name, value in state.items():
        setattr(app.state, name, value)
    for it in ENDPOINTS:
        responses: dict[int | str, dict[str, Any]] = {
            "4XX": {"model": Problem, "description": "What is wrong with the request"}
        }
        if it.model is not None:
            responses[200] = {"model": it.model}
        if it.computed:
            responses[202] = {"model": Working, "description": "It is being computed; ask again"}
        app.add_api_route(
            it.path,
            it.answer,
            methods=[it.method],
            responses=responses,
            dependencies=[Depends(_only_known_parameters)],
        )
    return app


def _only_known_parameters(request: Request) -> None:
    """Refuse a misspelt parameter, which would else be ignored.

    Raises:
        HTTPException: the address has one that the endpoint lacks.
    """
    described = request.app.openapi()["paths"][request.scope["route"].path_format]
    parameters = described[request.method.lower()].get("parameters", ())
    known = [it["name"] for it in parameters if it["in"] == "query"]
    for name in request.query_params:
        if name not in known:
            expected = f"expected {', '.join(known)}" if known else "expected none"
            raise HTTPException(400, f"{name!r} is not a valid parameter; {expected}.")


def _problem(_request: Request, error: Exception) -> JSONResponse:
    """What is wrong, as JSON."""
    if isinstance(error, RequestValidationError):
        wrong = error.errors()[0]
        status, text = 400, f"{wrong['loc'][-1]}: {wrong['msg']}."
    elif isinstance(error, HTTPException):
        status, text = error.status_code, str(error.detail)
    else:
        status, text = 404, str(error)
    problem = Problem(status=status, error=presentable(text))
    return _NotStored(problem.model_dump(), status)
