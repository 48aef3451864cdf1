"""The pages: the data that each address needs, rendered by a template."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from harvest_assets.files.layout import harvest_root
from harvest_assets.files.sanitize import presentable
from harvest_assets.interpretations.lists import list_titles
from harvest_assets.store.summary import summaries
from harvest_assets.viewer import charts
from harvest_assets.viewer.component_parts import FIRING, TOKENS, component_of
from harvest_assets.viewer.export import as_csv, as_parquet, download, table_frame
from harvest_assets.viewer.harvest import Harvest
from harvest_assets.viewer.interpreted import Interpreted, interpreted
from harvest_assets.viewer.library import Library
from harvest_assets.viewer.portrait import (
    firing_rows,
    neighbourhood,
    pair,
    shown_tokens,
)
from harvest_assets.viewer.rendering import html_page, svg
from harvest_assets.viewer.standalone import standalone_html
from harvest_assets.viewer.statuses import status_of
from harvest_assets.viewer.table import PAGE_SIZE, TableQuery, neighbours, order, unreadable
from harvest_assets.viewer.view_query import (
    ViewQuery,
    component_path,
    example_choices,
    join,
    page_of,
    run_path,
)
from harvest_assets.viewer.writing import person_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COMPARED_TOKENS = 12
_EXPORTED_EXAMPLES = 50
_MAX_EXPORTED = 100


class Pages:
    """Answers requests from the harvests of a library.

    Args:
        library: the harvests.
        first: the folder that the start page leads to; None: the start page lists all.
        form_token: shows that a form is of our pages; None: they have no forms.
    """

    def __init__(self, library: Library, first: str | None, form_token: str | None = None) -> None:
        self._library = library
        self._first = first
        self._form_token = form_token

    def start(self, request: Request) -> Response:
        """The run that the command named, or all harvests."""
        if self._first is None:
            return self.harvests(request)
        return RedirectResponse(run_path(self._first))

    def harvests(self, _request: Request) -> Response:
        """All harvests of this machine."""
        return html_page("harvests.html", harvest=None, harvests=summaries(), root=harvest_root())

    def overview(self, request: Request) -> Response:
        """A run: settings, charts, layers, and the table of its components."""
        harvest = self._harvest(request)
        query = TableQuery.of(request.query_params)
        if query.q in harvest.places:
            return RedirectResponse(component_path(harvest.name, query.q))
        places = order(harvest, query)
        page = min(page_of(request.query_params), max(1, -(-len(places) // PAGE_SIZE)))
        path = run_path(harvest.name)
        shown = places[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
        written = interpreted(harvest)  # once: each time lists a folder
        return html_page(
            "overview.html",
            harvest=harvest,
            query=query,
            given=request.query_params,
            ignored=unreadable(harvest, request.query_params),
            path=path,
            page=page,
            n_pages=max(1, -(-len(places) // PAGE_SIZE)),
            n_found=len(places),
            rows=[self._row(harvest, int(place), written) for place in shown],
            layers=harvest.layers.to_dicts(),
            settings=_settings(harvest),
            form_token=self._form_token,
            written=written,
            lists=list_titles(harvest.paths),
            **self._charts(harvest, path, query),
        )

    def component(self, request: Request) -> Response:
        """One component."""
        harvest, key = self._harvest(request), request.path_params["key"]
        place = harvest.place_of(key)
        query, view = TableQuery.of(request.query_params), _view(request, harvest)
        before, after = neighbours(harvest, query, place)
        keys = harvest.frame["component_key"]
        return html_page(
            "component.html",
            harvest=harvest,
            query=query,
            path=component_path(harvest.name, key),
            before=None if before is None else keys[before],
            after=None if after is None else keys[after],
            firing=firing_rows(harvest, place, view.fires_by, FIRING),
            graph=_graph(harvest, place, query),
            runs=self._library.names(),
            form_token=self._form_token,
            person=person_of(request),
            **component_of(harvest, place, view, TOKENS),
        )

    def compare(self, request: Request) -> Response:
        """Two components side by side, of one run or of two; a form where none is named."""
        params = request.query_params
        run_a = params.get("run_a", self._first or "")
        run_b = params.get("run_b", run_a)
        if not (run_a and params.get("a")):
            return self._compare_form(params, run_a, run_b)
        one, other = self._open(run_a), self._open(run_b)
        view = _view(request, one, other)
        wanted = params.get("b", "") or params.get("a", "")
        a = one.place_of(params.get("a", ""))
        b = other.places.get(wanted)
        return html_page(
            "compare.html",
            harvest=one,
            other=other,
            run_a=run_a,
            run_b=run_b,
            view=view,
            a=component_of(one, a, view, _COMPARED_TOKENS),
            b=None if b is None else component_of(other, b, view, _COMPARED_TOKENS),
            key_a=params["a"],
            wanted_b=wanted,
            together=pair(one, a, b) if one is other and b is not None else None,
            differing=_differing(one, other),
            alike=[] if one is other else _alike(one, a, other),
            runs=self._library.names(),
        )

    def _compare_form(self, params: Mapping[str, str], run_a: str, run_b: str) -> Response:
        """The form, with what an address lacks; a harvest that the address names must be there."""
        for field in ("run_a", "run_b"):
            if params.get(field):
                self._open(params[field])
        needed = {"a component (a)": params.get("a"), "its harvest (run_a)": run_a}
        return html_page(
            "compare_form.html",
            harvest=None,
            run_a=run_a,
            run_b=run_b,
            key_a=params.get("a", ""),
            wanted_b=params.get("b", ""),
            missing=[what for what, given in needed.items() if params and not given],
            runs=self._library.names(),
        )

    def table(self, request: Request) -> Response:
        """The table of an overview, or the selected components, as a file."""
        harvest, kind = self._harvest(request), request.url.path.rpartition(".")[2]
        keys = request.query_params.getlist("key")
        query = TableQuery.of(request.query_params)
        ignored = unreadable(harvest, request.query_params)
        if ignored:  # a file does not say so
            raise HTTPException(400, " ".join(ignored.values()))
        places = np.array([harvest.place_of(k) for k in keys]) if keys else order(harvest, query)
        frame = table_frame(harvest, places)
        content, media = {
            "csv": (as_csv, "text/csv; charset=utf-8"),
            "parquet": (as_parquet, "application/vnd.apache.parquet"),
        }[kind]
        return download(content(frame), media, f"{harvest.name}.{kind}")

    def export(self, request: Request) -> Response:
        """Components as one self-contained HTML file."""
        harvest = self._harvest(request)
        keys = request.query_params.getlist("key")
        if not 0 < len(keys) <= _MAX_EXPORTED:
            raise HTTPException(
                400, f"Select 1 to {_MAX_EXPORTED} components to export; {len(keys)} are selected."
            )
        html = standalone_html(harvest, keys, _view(request, harvest), _EXPORTED_EXAMPLES)
        name = keys[0].replace("/", "_").replace(":", "-") if len(keys) == 1 else "components"
        return download(html.encode(), "text/html; charset=utf-8", f"{harvest.name}-{name}.html")

    def version(self, request: Request) -> Response:
        """A text that changes whenever the pages of the run do."""
        return PlainTextResponse(self._library.version(request.path_params["run"]))

    def error(self, _request: Request, error: Exception) -> Response:
        """What is wrong, as a page."""
        message = presentable(error.detail if isinstance(error, HTTPException) else str(error))
        if isinstance(error, UnicodeDecodeError):
            message = "The address is not valid UTF-8."
        return html_page("error.html", status_of(error), message=message, harvest=None)

    def _harvest(self, request: Request) -> Harvest:
        return self._open(request.path_params["run"])

    def _open(self, name: str) -> Harvest:
        return self._library.get(name)

    def _row(self, harvest: Harvest, place: int, written: Interpreted) -> dict[str, Any]:
        names = ("component_key", "layer", "firing_count", "density", "mean_ci", "informativeness")
        row = harvest.frame.select(names).row(place, named=True)
        reads, predicts = shown_tokens(harvest, place)
        more = {"reads": reads[:3], "predicts": predicts[:3], "written": written.of(place)}
        return {**row, **more}

    def _charts(self, harvest: Harvest, path: str, query: TableQuery) -> dict[str, Any]:
        density = harvest.frame["density"].to_numpy()

        def address(low: float, high: float) -> str:
            # Rounding the bounds in the address must leave out none of a bar's components.
            return join(path, query.params(min=low * (1 - 1e-6), max=high * (1 + 1e-6))) + "#table"

        return {
            "density_chart": svg(charts.density_histogram, density, address),
            "ci_chart": svg(
                charts.ci_against_density,
                density,
                harvest.frame["mean_ci"].to_numpy(),
                address,
                harvest.words,
            ),
        }


def _view(request: Request, *harvests: Harvest) -> ViewQuery:
    """The choices in an address, of which some harvests lack one."""
    view = ViewQuery.of(request.query_params)
    if view.examples not in dict(example_choices(*harvests)):
        view = dataclasses.replace(view, examples="sample")
    has_second = all(harvest.words.second for harvest in harvests)
    return view if has_second else dataclasses.replace(view, shade="ci")


def _graph(harvest: Harvest, place: int, query: TableQuery) -> Markup | None:
    """The nearest neighbours of a component, drawn; None where there are none to be shown."""
    near = neighbourhood(harvest, place)
    if near is None:
        return None
    layers = harvest.layers["layer"].to_list()
    colours = [charts.layer_colour(layers.index(it), len(layers)) for it in near.layers]

    def address(key: str) -> str:
        return join(component_path(harvest.name, key), query.params())

    return svg(charts.neighbour_graph, near.keys, colours, near.jaccard, address)


def _settings(harvest: Harvest) -> list[tuple[str, Any]]:
    """Names and values; structures are for programs that read `config.json`."""
    return [
        (name, value)
        for name, value in harvest.config.items()
        if value is not None and name != "dictionaries"
    ]


def _differing(one: Harvest, other: Harvest) -> list[tuple[str, Any, Any]]:
    """The settings in which two runs differ."""
    names: Mapping[str, None] = dict.fromkeys([*one.config, *other.config])
    pairs = [(name, one.config.get(name), other.config.get(name)) for name in names]
    return [(name, a, b) for name, a, b in pairs if a != b]


def _same_tokens(one: Harvest, other: Harvest) -> bool:
    known = all("tokenizer_sha256" in harvest.config for harvest in (one, other))
    key = "tokenizer_sha256" if known else "tokenizer_name"
    return bool(one.config.get(key) == other.config.get(key))


def _alike(one: Harvest, place: int, other: Harvest, k: int = 5) -> list[str]:
    """Components of the same layer of another run that share the most informative tokens."""
    import polars as pl

    if not _same_tokens(one, other):
        return []  # the same id is another token
    reads, predicts = (set(ids) for ids in one.informative_tokens(place))
    layer = one.frame["layer"][place]
    rows = other.frame.filter((pl.col("layer") == layer) & (pl.col("firing_count") > 0))
    rows = rows.filter(pl.col("reads").is_not_null())
    shared: NDArray[np.int64] = np.array(
        [
            len(reads.intersection(a)) + len(predicts.intersection(b))
            for a, b in zip(rows["reads"].to_list(), rows["predicts"].to_list(), strict=True)
        ],
        dtype=np.int64,
    )
    best = np.argsort(-shared, kind="stable")[:k]
    return [rows["component_key"][int(i)] for i in best if shared[i] > 0]
