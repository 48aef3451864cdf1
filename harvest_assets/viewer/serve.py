"""Serve the pages on this machine, and open a browser."""

from __future__ import annotations

import gc
import logging
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException

import uvicorn
from starlette.applications import Starlette

from harvest_assets.files.sanitize import RedactingFilter
from harvest_assets.system.ports import listening, url_of
from harvest_assets.system.stopping import hangup_terminates
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets.viewer.view_query import component_path

# The browser's first page goes first.
_FIRST_PAGE_SECONDS = 1.0
# An address holds two texts of 10,000 characters, ids and the boxes that are ticked: a character
# takes 9 bytes of it, and the page's own address is sent with it.
_MAX_HEADER_BYTES = 1 << 20
# A question to a model may take minutes.
_SECONDS_TO_STOP = 2


def serve(
    name: str | None, host: str, port: int, *, browser: bool, log: Callable[[str], None]
) -> None:
    """Show harvests until Ctrl-C, SIGTERM or a closed terminal.

    Args:
        name: the folder below `harvest/` to begin with; None: a page of all harvests.
        host: the address to listen on.
        port: 0 picks a free one.
        browser: whether to open a browser.
        log: called with each line to print.

    Raises:
        HarvestError: the harvest cannot be opened, or the port is taken.
    """
    library = Library()
    first = None
    if name is not None:  # errors are reported here, not in the browser
        first = component_path(name, library.get(name).frame["component_key"][0])
    with listening(host, port) as listener:
        port = listener.getsockname()[1]
        address = url_of(host, port)
        log(f"{address} (Ctrl-C stops it)")
        app = make_app(library, name, host)
        # h11, unlike uvicorn's other parser, bounds the size of request headers.
        config = uvicorn.Config(
            app,
            http="h11",
            h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_SECONDS_TO_STOP,
        )
        logging.getLogger("uvicorn.error").addFilter(RedactingFilter())
        if browser:
            # The socket is already listening: the browser waits for the server to accept.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        if first is not None:
            warm_up = threading.Timer(_FIRST_PAGE_SECONDS, _warm_up, args=(host, port, first))
            warm_up.daemon = True
            warm_up.start()
        hangup_terminates()  # uvicorn shuts down gracefully on SIGTERM only
        with suppress(KeyboardInterrupt):  # the normal way to stop
            Server(config, app).run(sockets=[listener])


class Server(uvicorn.Server):
    """A server that does not wait for models or computed pages when it is stopped."""

    def __init__(self, config: uvicorn.Config, app: Starlette) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        self._app.state.close()
        # A page that is cut off by the end of the server is no error.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)


def _warm_up(host: str, port: int, path: str) -> None:
    """Request a component before any user does: the first opens files that all others need."""
    connection = HTTPConnection(host, port)
    with suppress(OSError, HTTPException):
        connection.request("GET", path)
        connection.getresponse().read()
    connection.close()
    # What is in memory now stays; a collection that visited it all would delay a page.
    gc.collect()
    gc.freeze()
