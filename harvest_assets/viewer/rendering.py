"""Pages from templates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from harvest_assets.files.layout import harvest_folders
from harvest_assets.viewer.figures import FILTERS
from harvest_assets.viewer.view_query import (
    compare_path,
    component_path,
    example_choices,
    join,
    methods_path,
    run_path,
)

STATIC = Path(__file__).parent / "static"

_templates = Environment(
    loader=PackageLoader("harvest_assets.viewer"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters.update(FILTERS)
_templates.globals.update(
    join=join,
    run_path=run_path,
    component_path=component_path,
    compare_path=compare_path,
    methods_path=methods_path,
    example_choices=example_choices,
    harvest_names=lambda: [folder.name for folder in harvest_folders()],
    query=None,  # of the table; pages with one set it
)


def rendered(template: str, **context: Any) -> str:
    """A template's text with the values of its variables."""
    return _templates.get_template(template).render(context)


def html_page(template: str, status: int = 200, **context: Any) -> Response:
    """A page, which browsers do not store."""
    return HTMLResponse(rendered(template, **context), status, {"Cache-Control": "no-store"})


def svg(draw: Callable[..., str], *data: Any) -> Markup:
    """A chart; `charts` has escaped its text."""
    return Markup(draw(*data))  # noqa: S704
