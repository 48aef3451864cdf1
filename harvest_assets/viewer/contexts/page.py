"""The page that finds contexts by their text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from harvest_assets.viewer.contexts.search import HITS_PER_PAGE, MAX_HITS, ContextIndex, Found
from harvest_assets.viewer.derived import Derived, Work
from harvest_assets.viewer.rendering import html_page
from harvest_assets.viewer.view_query import page_of

if TYPE_CHECKING:
    from harvest_assets.viewer.harvest import Harvest
    from harvest_assets.viewer.library import Library


@dataclass(frozen=True)
class ContextQuery:
    """What is searched; each field is a parameter of the address.

    Args:
        q: the text; in double quotes, a whole token.
        case: whether upper and lower case differ.
        page: from 1.
    """

    q: str = ""
    case: bool = False
    page: int = 1

    @classmethod
    def of(cls, params: Mapping[str, str]) -> Self:
        """The query of an address."""
        return cls(params.get("q", ""), params.get("case") == "1", page_of(params))

    def params(self, page: int) -> str:
        """The query string of another page."""
        fields = {"q": self.q, "case": "1" if self.case else "", "page": page if page > 1 else ""}
        return urlencode({name: value for name, value in fields.items() if value})


def find(
    derived: Derived, harvest: Harvest, query: ContextQuery
) -> tuple[Found, ContextIndex] | Work:
    """What a search finds, with the index; while that is made, how much of it is done.

    Raises:
        HarvestError: the harvest is in progress or damaged, or the text is too long.
    """

    def read(folder: Path) -> tuple[Found, ContextIndex]:
        index = ContextIndex.open(folder)
        return index.search(harvest, query.q, case=query.case, page=query.page), index

    return derived.opened(harvest, "contexts", read)


class ContextPages:
    """Answers requests from the harvests of a library.

    Args:
        library: the harvests.
        derived: their indices.
    """

    def __init__(self, library: Library, derived: Derived) -> None:
        self._library = library
        self._derived = derived

    def contexts(self, request: Request) -> Response:
        """The field for a text, and where it occurs."""
        harvest = self._library.get(request.path_params["run"])
        query = ContextQuery.of(request.query_params)
        values: dict[str, Any] = {"found": None, "work": None, "per_list": None}
        answer = find(self._derived, harvest, query) if harvest.progress is None else None
        if isinstance(answer, Work):
            values["work"] = answer
        elif answer is not None:
            found, index = answer
            kept = harvest.config.get("activation_examples_per_component")
            values["found"] = found
            values["per_list"] = index.per_list if kept and index.per_list < kept else None
            values["n_pages"] = max(1, -(-found.n // HITS_PER_PAGE))
        return html_page(
            "contexts.html", harvest=harvest, search=query, max_hits=MAX_HITS, **values
        )
