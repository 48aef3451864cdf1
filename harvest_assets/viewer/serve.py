"""Listen on this machine, and show the page in a browser."""

from __future__ import annotations

import gc
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException

import uvicorn

from harvest_assets.decomposition.run_name import parse_run
from harvest_assets.errors import HarvestError
from harvest_assets.layout import harvest_root
from harvest_assets.registry import registration_of
from harvest_assets.stopping import hangup_terminates
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets.viewer.view_query import component_path

# Left to the browser's first page.
_FIRST_PAGE_SECONDS = 1.0


def folder_of(run: str) -> str:
    """The folder below `harvest/` of a run, by any of its names or by the folder's own.

    Raises:
        HarvestError: it is no name of a run.
    """
    if "/" not in run and run not in (".", "..") and (harvest_root() / run).is_dir():
        return run
    return registration_of(parse_run(run).name.key).out_name


def serve(name: str, host: str, port: int, *, browser: bool, tell: Callable[[str], None]) -> None:
    """Show a harvest until Ctrl-C, SIGTERM or a closed terminal.

    Args:
        name: its folder below `harvest/`.
        host: the address to listen on.
        port: 0 takes a free one.
        browser: open a browser.
        tell: takes a line for people.

    Raises:
        HarvestError: there is nothing to show, or the port is taken.
    """
    library = Library()
    harvest = library.get(name)  # what cannot be opened is said here, not in the browser
    with listening(host, port) as listener:
        port = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{port}/"
        tell(f"{address} (Ctrl-C ends it)")
        app = make_app(library, name, host)
        # h11, unlike uvicorn's other parser, bounds the head of a request.
        config = uvicorn.Config(
            app, http="h11", log_level="warning", access_log=False, server_header=False
        )
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


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        HarvestError: it cannot.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        msg = f"{host}:{port} cannot be listened on: {error.strerror}; give another --port."
        raise HarvestError(msg) from error
    return listener


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
