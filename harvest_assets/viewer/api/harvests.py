"""Endpoints about whole harvests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Path, Query
from starlette.requests import Request
from starlette.responses import JSONResponse

from harvest_assets.store.summary import summaries
from harvest_assets.viewer.api.models import (
    Contexts,
    HarvestLine,
    Layer,
    Map,
    Overview,
    Working,
)
from harvest_assets.viewer.component_map.page import map_of
from harvest_assets.viewer.component_map.points import Colour
from harvest_assets.viewer.contexts.page import ContextQuery, find
from harvest_assets.viewer.contexts.search import MAX_QUERY
from harvest_assets.viewer.derived import Work

if TYPE_CHECKING:
    from harvest_assets.viewer.harvest import Harvest

Run = Annotated[str, Path(description="folder of a harvest, as `/api/harvests` names it")]
Key = Annotated[str, Path(description="key of a component: h.0.mlp.c_fc:12")]
PageNumber = Annotated[int, Query(ge=1, lt=1 << 31, description="from 1")]


def harvest_of(request: Request, run: str) -> Harvest:
    """The harvest in a folder, as it is now.

    Raises:
        HarvestError: there is none, or it is damaged.
    """
    harvest: Harvest = request.app.state.library.get(run)
    return harvest


def working(work: Work) -> Any:
    """The answer while something is computed."""
    return JSONResponse(Working(share=work.share).model_dump(), 202, {"Retry-After": "1"})


def harvests() -> list[HarvestLine]:
    """All harvests of this machine."""
    return [HarvestLine.model_validate(summary) for summary in summaries()]


def overview(request: Request, run: Run) -> Overview:
    """A harvest: its settings, layers and counts."""
    harvest = harvest_of(request, run)
    layers = [Layer.model_validate(row) for row in harvest.layers.to_dicts()]
    return Overview(
        name=harvest.name,
        run=harvest.run,
        n_tokens=harvest.n_tokens,
        n_components=len(harvest.frame),
        alive=sum(layer.alive for layer in layers),
        progress=None if harvest.progress is None else harvest.progress.share,
        counts_cofirings=harvest.counts_cofirings,
        example_orders=list(harvest.example_orders),
        firing_strength=harvest.words.long,
        second_value=harvest.words.second,
        warnings=harvest.warnings,
        layers=layers,
        config=harvest.config,
    )


def contexts(
    request: Request,
    run: Run,
    q: Annotated[str, Query(max_length=MAX_QUERY, description="in double quotes: a whole token")],
    case: Annotated[str, Query(pattern="^[01]?$", description="1: case matters")] = "",
    page: PageNumber = 1,
) -> Contexts:
    """Where a text occurs in the contexts that were kept, and the components that fire there."""
    harvest = harvest_of(request, run)
    answer = find(request.app.state.derived, harvest, ContextQuery(q, case == "1", page))
    if isinstance(answer, Work):
        return working(answer)  # type: ignore[no-any-return]
    found, _ = answer
    return Contexts.of(found, page)


def component_map(
    request: Request,
    run: Run,
    colour: Annotated[Colour, Query(description="what the groups are by")] = "layer",
) -> Map:
    """Where each component is on the map, and its colour."""
    answer = map_of(request.app.state.derived, harvest_of(request, run), colour)
    if isinstance(answer, Work):
        return working(answer)  # type: ignore[no-any-return]
    return Map.model_validate(answer)
