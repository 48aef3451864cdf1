"""Listen on this machine, and show the page in a browser."""

from __future__ import annotations

import gc
import logging
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException

import uvicorn

from harvest_assets.files.sanitize import RedactingFilter
from harvest_assets.system.ports import listening, url_of
from harvest_assets.system.stopping import hangup_terminates
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets.viewer.view_query import component_path

# Left to the browser's first page.
_FIRST_PAGE_SECONDS = 1.0


def serve(name: str, host: str, port: int, *, browser: bool, log: Callable[[str], None]) -> None:
    """Show a harvest until Ctrl-C, SIGTERM or a closed terminal.

    Args:
        name: its folder below `harvest/`.
        host: the address to listen on.
        port: 0 takes a free one.
        browser: open a browser.
        log: called with each message.

    Raises:
        HarvestError: there is nothing to show, or the port is taken.
    """
    library = Library()
    harvest = library.get(name)  # what cannot be opened is said here, not in the browser
    with listening(host, port) as listener:
        port = listener.getsockname()[1]
        address = url_of(host, port)
        log(f"{address} (Ctrl-C ends it)")
        app = make_app(library, name, host)
        # h11, unlike uvicorn's other parser, bounds the head of a request.
        config = uvicorn.Config(
            app, http="h11", log_level="warning", access_log=False, server_header=False
        )
        logging.getLogger("uvicorn.error").addFilter(RedactingFilter())
        if browser:
            # The socket listens already: the browser waits for the server to accept.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        first = component_path(name, harvest.frame["component_key"][0])
        warm_up = threading.Timer(_FIRST_PAGE_SECONDS, _warm_up, args=(host, port, first))
        warm_up.daemon = True
        warm_up.start()
        hangup_terminates()  # uvicorn ends requests in good order on SIGTERM alone
        with suppress(KeyboardInterrupt):  # the way to end it
            uvicorn.Server(config).run(sockets=[listener])


def _warm_up(host: str, port: int, path: str) -> None:
    """Ask for a component before anybody does: the first opens what all others need."""
    connection = HTTPConnection(host, port)
    with suppress(OSError, HTTPException):
        connection.request("GET", path)
        connection.getresponse().read()
    connection.close()
    # What is there now stays: a collection that looked through it all would hold up a page.
    gc.collect()
    gc.freeze()
