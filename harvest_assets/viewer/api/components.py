"""Endpoints about components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request

from harvest_assets.schemas import ExampleOrder, LocatedExample
from harvest_assets.viewer.api.harvests import harvest_of
from harvest_assets.viewer.api.models import (
    Component,
    ComponentRow,
    ComponentsPage,
    Example,
    Examples,
    FiresWith,
    ScoredToken,
    Token,
)
from harvest_assets.viewer.examples import EXAMPLES_PER_PAGE
from harvest_assets.viewer.interpreted import Interpreted, interpreted
from harvest_assets.viewer.portrait import Portrait, TokenRow, firing_rows, token_rows
from harvest_assets.viewer.table import PAGE_SIZE, TableQuery, order, unreadable

if TYPE_CHECKING:
    from harvest_assets.viewer.harvest import Harvest

_TOKENS = 20
_Page = Annotated[int, Query(ge=1, lt=1 << 31)]
_Yes = Literal["", "0", "1"]


class TableParams(BaseModel):
    """Which components, in which order; as in the address of the table on the page."""

    q: str = Field("", description="words, each part of the key: kproj:18")
    token: str = Field("", description="part of a token; in double quotes, the whole token")
    layer: str = ""
    min: str = Field("", description="lowest density: 0.01 or 1%")
    max: str = Field("", description="highest density")
    dead: _Yes = Field("", description="1: also those that never fired")
    label: str = Field("", description="words, each part of label, note, tags or reason")
    tag: str = ""
    labelled: _Yes = Field("", description="1: only those with a label")
    starred: _Yes = Field("", description="1: only those with a star")
    listed: str = Field("", description="name of a list")
    sort: str = Field(
        "", description="informativeness, density, mean_ci, layer, reads, predicts, label, score_…"
    )
    reverse: _Yes = ""
    page: int = Field(1, ge=1, lt=1 << 31)


def components(
    request: Request, run: str, params: Annotated[TableParams, Query()]
) -> ComponentsPage:
    """The components that match, 50 a page."""
    harvest = harvest_of(request, run)
    given = params.model_dump(exclude={"page"})
    if problems := unreadable(given):
        raise HTTPException(400, " ".join(problems.values()))
    places = order(harvest, TableQuery.of(given))
    written = interpreted(harvest)
    first = (params.page - 1) * PAGE_SIZE
    return ComponentsPage(
        n=len(places),
        page=params.page,
        n_pages=max(1, -(-len(places) // PAGE_SIZE)),
        components=[
            ComponentRow(**_row(harvest, int(place), written))
            for place in places[first : first + PAGE_SIZE]
        ],
    )


def component(
    request: Request,
    run: str,
    key: str,
    reads_by: Literal["recall", "precision", "lift", "pmi", "bottom"] = "recall",
    predicts_by: Literal["recall", "precision", "lift", "pmi", "bottom"] = "pmi",
    fires_by: Literal["jaccard", "precision", "recall", "pmi", "bottom"] = "jaccard",
    examples: ExampleOrder = "sample",
    page: _Page = 1,
) -> Component:
    """One component: its numbers, tokens, neighbours and 20 examples."""
    harvest = harvest_of(request, run)
    place = harvest.place_of(key)
    portrait, written = Portrait.of(harvest, place), interpreted(harvest)
    firing = firing_rows(harvest, place, fires_by, _TOKENS)
    row = _row(harvest, place, written)
    reads = token_rows(harvest, place, "input", reads_by, _TOKENS)
    predicts = token_rows(harvest, place, "output", predicts_by, _TOKENS)
    rank, layer_components = portrait.rank
    return Component(
        **row,
        mean_ci_firing=portrait.mean_ci_firing,
        rank=rank,
        layer_components=layer_components,
        ci_histogram=None if portrait.histogram is None else portrait.histogram.tolist(),
        reads_scored=_scored(harvest, reads),
        predicts_scored=_scored(harvest, predicts),
        fires_with=None
        if firing is None
        else [FiresWith(key=it.key, together=it.together, **it.scores) for it in firing],
        examples=_examples(harvest, place, examples, page),
        note=written.of(place)["note"],
        scores={it["method"]: it["score"] for it in written.scores(key, row["label"])},
    )


def _row(harvest: Harvest, place: int, written: Interpreted) -> dict[str, Any]:
    names = ("layer", "firing_count", "density", "mean_ci", "informativeness")
    row = harvest.frame.select("component_key", *names).row(place, named=True)
    reads, predicts = harvest.informative_tokens(place)
    mine = written.of(place)
    return {
        **{name: row[name] for name in names},
        "key": row["component_key"],
        "reads": _tokens(harvest, reads),
        "predicts": _tokens(harvest, predicts),
        "label": mine["label"],
        "starred": mine["starred"],
        "tags": list(mine["tags"]),
    }


def _tokens(harvest: Harvest, ids: Sequence[int]) -> list[Token]:
    return [Token(id=i, text=harvest.vocabulary.text(i)) for i in ids]


def _scored(harvest: Harvest, rows: Sequence[TokenRow]) -> list[ScoredToken]:
    return [
        ScoredToken(token=token, count=row.count, **row.scores)
        for row, token in zip(
            rows, _tokens(harvest, [row.token.token_id for row in rows]), strict=True
        )
    ]


def _examples(harvest: Harvest, place: int, chosen: ExampleOrder, page: int) -> Examples:
    found = harvest.examples(place, chosen)
    first = (page - 1) * EXAMPLES_PER_PAGE
    return Examples(
        order=chosen,
        n=len(found),
        page=page,
        n_pages=max(1, -(-len(found) // EXAMPLES_PER_PAGE)),
        examples=[_example(harvest, it) for it in found[first : first + EXAMPLES_PER_PAGE]],
    )


def _example(harvest: Harvest, example: LocatedExample) -> Example:
    ids = example.token_ids
    return Example(
        row=example.row,
        position=example.position,
        token_ids=ids,
        texts=harvest.vocabulary.context(ids, len(ids) // 2),
        ci=example.ci_values,
        act=example.component_acts,
    )
