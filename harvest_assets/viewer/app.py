"""The application: its routes, and which requests it answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio.to_thread import current_default_thread_limiter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from harvest_assets.errors import HarvestError
from harvest_assets.viewer.ablating import AblatePages
from harvest_assets.viewer.api.lazy import Api
from harvest_assets.viewer.asking import Asking
from harvest_assets.viewer.component_map.page import MapPages
from harvest_assets.viewer.contexts.page import ContextPages
from harvest_assets.viewer.derived import Derived
from harvest_assets.viewer.library import Library
from harvest_assets.viewer.methods import Methods
from harvest_assets.viewer.pages import Pages
from harvest_assets.viewer.prompting import Prompting
from harvest_assets.viewer.rendering import STATIC
from harvest_assets.viewer.security import OwnOriginOnly, is_loopback
from harvest_assets.viewer.walking import Walking
from harvest_assets.viewer.weights import WeightsPages
from harvest_assets.viewer.writing import Writing

# Pages computed at once: more would not be faster, and each takes about 15 MB.
_PAGES_AT_ONCE = 8


def make_app(library: Library, first: str | None, host: str = "127.0.0.1") -> Starlette:
    """The application that shows the harvests of a library.

    Args:
        library: the harvests.
        first: the folder that the start page leads to; None: the start page lists all.
        host: the address it listens on; requests under other names are refused, and unless it is a
            loopback address nothing can be written.
    """
    writing = Writing(library)
    pages = Pages(library, first, writing.form_token if is_loopback(host) else None)
    asking = Asking()
    prompting = Prompting(library, asking)
    ablate, weights = AblatePages(library, asking), WeightsPages(library, asking)
    methods, walking, derived = Methods(library), Walking(library), Derived()
    api = Api(library=library, derived=derived, asking=asking, prompting=prompting)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = _PAGES_AT_ONCE
        try:
            yield
        finally:
            asking.close()

    run = "/run/{run}"
    app = Starlette(
        routes=[
            Route("/", pages.start),
            Route("/harvests", pages.harvests),
            Route(run, pages.overview),
            Route(f"{run}/component/{{key:path}}", pages.component, methods=["GET"]),
            Route(f"{run}/component/{{key:path}}", writing.edit, methods=["POST"]),
            Route(f"{run}/lists", writing.keep_list, methods=["POST"]),
            Route(f"{run}/list.json", writing.download_list),
            *(Route(f"{run}/table.{kind}", pages.table) for kind in ("csv", "parquet")),
            Route(f"{run}/export.html", pages.export),
            Route(f"{run}/version", pages.version),
            Route(f"{run}/prompt", prompting.page),
            Route(f"{run}/ablate", ablate.page),
            Route(f"{run}/weights/{{key:path}}", weights.page),
            Route("/compare", pages.compare),
            Route("/methods", methods.page),
            Route("/switch", walking.switch),
            Route(f"{run}/jump", walking.jump),
            Route(f"{run}/random", walking.random),
            Route(f"{run}/contexts", ContextPages(library, derived).contexts),
            Route(f"{run}/map", MapPages(library, derived).map),
            Route("/api", api.page),
            Mount("/api", api),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            Middleware(OwnOriginOnly, host=host),
            Middleware(GZipMiddleware, minimum_size=2000, compresslevel=1),
        ],
        lifespan=lifespan,
        exception_handlers=dict.fromkeys(
            (HTTPException, HarvestError, OSError, UnicodeDecodeError), pages.error
        ),
    )
    app.state.asking = asking
    return app
