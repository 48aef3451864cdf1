"""The endpoint that compares two harvests."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from starlette.requests import Request
from starlette.responses import JSONResponse

from harvest_assets.viewer.methods import known_comparison


def methods(
    request: Request,
    run_a: Annotated[str, Query(description="folder of a harvest")],
    run_b: Annotated[str, Query(description="folder of another")],
    n_pairs: Annotated[int, Query(ge=0, le=10_000, description="pairs listed")] = 100,
) -> Any:
    """Two harvests of the same rows: their numbers, and the best-matching components."""
    found = known_comparison(request.app.state.library, run_a, run_b)
    return JSONResponse(found.as_json(n_pairs))
