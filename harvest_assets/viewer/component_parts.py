"""The data that the parts of a component's page need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harvest_assets.viewer import charts
from harvest_assets.viewer.examples import EXAMPLES_PER_PAGE, ComponentExamples
from harvest_assets.viewer.portrait import Portrait, token_rows
from harvest_assets.viewer.rendering import svg
from harvest_assets.viewer.writing import meaning

if TYPE_CHECKING:
    from harvest_assets.viewer.harvest import Harvest
    from harvest_assets.viewer.view_query import ViewQuery

TOKENS = 20
FIRING = 20


def component_of(harvest: Harvest, place: int, view: ViewQuery, k: int) -> dict[str, Any]:
    """Portrait, meaning, chart, tokens and examples of a component, by their names in templates.

    Args:
        harvest: the harvest.
        place: of the component.
        view: the choices of the page.
        k: tokens of each list at most.
    """
    start = (view.page - 1) * EXAMPLES_PER_PAGE
    examples = ComponentExamples(harvest, place, view.shade)
    order = "sample" if view.examples == "intervals" else view.examples
    n, by_interval = examples.count(order), view.examples == "intervals"
    portrait = Portrait.of(harvest, place)
    histogram = portrait.histogram
    return {
        "portrait": portrait,
        "meaning": meaning(harvest, place),
        "view": view,
        "chart": None if histogram is None else svg(charts.ci_histogram, histogram, harvest.words),
        "reads": token_rows(harvest, place, "input", view.reads_by, k),
        "predicts": token_rows(harvest, place, "output", view.predicts_by, k),
        "all_examples": examples,
        "examples": [] if by_interval else examples.shown(order, start, start + EXAMPLES_PER_PAGE),
        "intervals": examples.intervals if by_interval else [],
        "n_examples": n,
        "n_example_pages": 1 if by_interval else max(1, -(-n // EXAMPLES_PER_PAGE)),
        "first_example": start + 1,
    }
