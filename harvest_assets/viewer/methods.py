"""Two harvests side by side: their numbers, and the best matches of their components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from harvest_assets.comparison import Comparison, compare_known
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.sanitize import presentable
from harvest_assets.viewer import charts
from harvest_assets.viewer.library import Library
from harvest_assets.viewer.rendering import html_page, svg
from harvest_assets.viewer.view_query import methods_path, page_of

if TYPE_CHECKING:
    import polars as pl

_PAIRS_PER_PAGE = 50


class Methods:
    """Answers requests about two harvests; no model is opened.

    Args:
        library: the harvests.
    """

    def __init__(self, library: Library) -> None:
        self._library = library

    def page(self, request: Request) -> Response:
        """The two side by side; a form to choose them where they are not both named."""
        params = request.query_params
        chosen = params.getlist("key")
        if chosen:  # of the list of harvests, without the script
            return RedirectResponse(methods_path(*(chosen * 2)[:2]))
        run_a, run_b = params.get("run_a", ""), params.get("run_b", "")
        layer = params.get("layer", "")
        context: dict[str, Any] = {"found": None, "problem": ""}
        if run_a and run_b:
            try:
                found = known_comparison(self._library, run_a, run_b)
                context = _shown(found, layer, page_of(params))
            except HarvestError as error:
                context["problem"] = presentable(str(error))
        return html_page(
            "methods.html",
            harvest=None,
            runs=self._library.names(),
            run_a=run_a,
            run_b=run_b,
            layer=layer,
            **context,
        )


def known_comparison(library: Library, run_a: str, run_b: str) -> Comparison:
    """Two harvests, with the pairs that are known.

    Raises:
        HarvestError: there is no such harvest, or they cannot be compared.
    """
    there = library.names()
    for name in (run_a, run_b):
        if name not in there:
            raise HarvestError(f"There is no harvest {name!r} here.")
    return compare_known(HarvestLayout.of(run_a), HarvestLayout.of(run_b))


def _shown(found: Comparison, layer: str, page: int) -> dict[str, Any]:
    """The data that the page needs."""
    summary = found.summary.to_dicts()
    layers = [found.layers.filter(harvest=name).to_dicts() for name in (found.run_a, found.run_b)]
    names = found.components["harvest"].unique(maintain_order=True)
    densities = {
        name: found.components.filter(harvest=name)["density"].to_numpy() for name in names
    }
    return {
        "found": found,
        "problem": "",
        "summary": summary,
        "methods": _methods(summary),
        "layers": layers,
        "density_chart": svg(charts.density_histograms, densities),
        **_pairs(found.pairs, found.run_a, layer, page),
    }


def _methods(summary: list[dict[str, Any]]) -> list[str]:
    """The methods by which components of either were scored."""
    names = [name.removesuffix("_n") for name in summary[0] if name.endswith("_n")]
    return [name for name in names if any(it[f"{name}_n"] for it in summary)]


def _pairs(pairs: pl.DataFrame | None, run_a: str, layer: str, page: int) -> dict[str, Any]:
    import polars as pl

    if pairs is None:
        return {"pairs": None}
    best = pairs.filter(pl.col("rank") == 1)
    jaccard = best["jaccard"].to_numpy()
    if layer:
        best = best.filter(pl.col("component_a").str.starts_with(f"{layer}:"))
    n_pages = max(1, -(-len(best) // _PAIRS_PER_PAGE))
    page = min(page, n_pages)
    return {
        "pairs": best.slice((page - 1) * _PAIRS_PER_PAGE, _PAIRS_PER_PAGE).to_dicts(),
        "n_pairs": len(best),
        "page": page,
        "n_pages": n_pages,
        "jaccard_chart": svg(charts.best_jaccard_histogram, run_a, jaccard),
    }
