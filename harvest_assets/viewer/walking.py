"""Ways from page to page: another run, a component by a few letters of its key, a random one."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlencode, urlsplit

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from harvest_assets.viewer.interpreted import interpreted
from harvest_assets.viewer.table import TableQuery, order
from harvest_assets.viewer.view_query import component_path, join, run_path

if TYPE_CHECKING:
    from harvest_assets.viewer.harvest import Harvest
    from harvest_assets.viewer.library import Library


class Walking:
    """Redirects to the page that a person means.

    Args:
        library: the harvests.
    """

    def __init__(self, library: Library) -> None:
        self._library = library

    def switch(self, request: Request) -> Response:
        """The page that the request came from, of another run; its overview if that has no such."""
        harvest = self._library.get(request.query_params.get("run", ""))
        return RedirectResponse(_same_page(harvest, request.headers.get("referer", "")))

    def jump(self, request: Request) -> Response:
        """A component, or the table of those that a text is part of; see `destination`."""
        harvest = self._library.get(request.path_params["run"])
        return RedirectResponse(destination(harvest, request.query_params.get("q", "").strip()))

    def random(self, request: Request) -> Response:
        """A random component of those that fired and match the table's query."""
        harvest = self._library.get(request.path_params["run"])
        query = TableQuery.of(request.query_params)
        places = order(harvest, query)
        if len(places) == 0:
            raise HTTPException(404, f"No component of {harvest.name} matches.")
        place = int(places[np.random.default_rng().integers(len(places))])
        path = component_path(harvest.name, harvest.frame["component_key"][place])
        return RedirectResponse(join(path, query.params()), headers={"Cache-Control": "no-store"})


def destination(harvest: Harvest, text: str) -> str:
    """Where a text leads: the only component whose key it is part of, else a table or contexts.

    Keys come first, then labels, then the tokens that components read and predict, then the kept
    contexts.
    """
    path = run_path(harvest.name)
    if not text or text in harvest.places:
        return component_path(harvest.name, text) if text else path
    for query in (TableQuery(q=text), TableQuery(q=text, dead=True)):
        places = order(harvest, query)
        if len(places) == 1:
            return component_path(harvest.name, harvest.frame["component_key"][int(places[0])])
        if len(places):
            return join(path, query.params()) + "#table"
    if interpreted(harvest).history and len(order(harvest, TableQuery(label=text))):
        return join(path, TableQuery(label=text).params()) + "#table"
    if len(order(harvest, TableQuery(token=text))):
        return join(path, TableQuery(token=text).params()) + "#table"
    return join(run_path(harvest.name, "contexts"), urlencode({"q": text}))


def _same_page(harvest: Harvest, address: str) -> str:
    """The page of a harvest that corresponds to an address of another one."""
    path = query = ""
    with suppress(ValueError):  # of an address that is not valid
        path, query = urlsplit(address).path, urlsplit(address).query
    start, _, rest = path.lstrip("/").partition("/")
    kind, _, key = rest.partition("/")[2].partition("/")
    overview = run_path(harvest.name)
    if start != "run" or not kind:
        return overview
    if kind != "component":
        return join(run_path(harvest.name, kind, *filter(None, [unquote(key)])), query)
    key = unquote(key)
    return join(component_path(harvest.name, key), query) if key in harvest.places else overview
