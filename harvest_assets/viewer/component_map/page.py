"""The page of the map; its points are those of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from harvest_assets.viewer.component_map.points import COLOURS, Colour, Points, points
from harvest_assets.viewer.derived import Derived, Work
from harvest_assets.viewer.rendering import html_page

if TYPE_CHECKING:
    from harvest_assets.viewer.harvest import Harvest
    from harvest_assets.viewer.library import Library


def map_of(
    derived: Derived, harvest: Harvest, colour: Colour, *, tokens: bool = True
) -> Points | Work:
    """The map of a harvest, see `points`; while it is made, how much of it is done.

    Raises:
        HarvestError: the harvest is in progress or damaged, or has no co-firings.
    """
    folder = derived.folder(harvest, "map")
    return folder if isinstance(folder, Work) else points(harvest, folder, colour, tokens=tokens)


class MapPages:
    """Answers requests from the harvests of a library.

    Args:
        library: the harvests.
        derived: their maps.
    """

    def __init__(self, library: Library, derived: Derived) -> None:
        self._library = library
        self._derived = derived

    def map(self, request: Request) -> Response:
        """The map, its legend, and the colours to choose from."""
        harvest = self._library.get(request.path_params["run"])
        asked = request.query_params.get("colour", "")
        colour = next((known for known in COLOURS if known == asked), COLOURS[0])
        values: dict[str, Any] = {"work": None, "points": None}
        if harvest.progress is None and harvest.counts_cofirings:
            answer = map_of(self._derived, harvest, colour, tokens=False)
            values["work" if isinstance(answer, Work) else "points"] = answer
        return html_page("map.html", harvest=harvest, colour=colour, colours=COLOURS, **values)
