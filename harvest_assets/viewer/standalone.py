"""Components as one HTML file that needs nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from harvest_assets.viewer.component_parts import FIRING, TOKENS, component_of
from harvest_assets.viewer.portrait import firing_rows
from harvest_assets.viewer.rendering import STATIC, rendered
from harvest_assets.viewer.view_query import example_choices

if TYPE_CHECKING:
    from harvest_assets.viewer.harvest import Harvest
    from harvest_assets.viewer.view_query import ViewQuery


def standalone_html(harvest: Harvest, keys: Sequence[str], view: ViewQuery, n_examples: int) -> str:
    """A page of components with its style, without scripts and links to other pages.

    Args:
        harvest: the harvest.
        keys: of the components.
        view: the choices of a component's page.
        n_examples: of each list, at most.

    Raises:
        HarvestError: there is no such component.
    """
    view = dataclasses.replace(view, page=1)
    orders = [it for it in harvest.example_orders if it in dict(example_choices(harvest))]
    components = []
    for key in keys:
        place = harvest.place_of(key)
        described = component_of(harvest, place, view, TOKENS)
        examples = described["all_examples"]
        lists = {order: examples.shown(order, 0, n_examples) for order in orders}
        firing = firing_rows(harvest, place, view.fires_by, FIRING)
        components.append({**described, "lists": lists, "firing": firing})
    return rendered(
        "export.html",
        harvest=harvest,
        components=components,
        css=Markup((STATIC / "viewer.css").read_text(encoding="utf-8")),  # noqa: S704 - ours
    )
