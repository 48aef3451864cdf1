"""Listen on this machine, and show the page in a browser."""

from __future__ import annotations

import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from harvest_assets.decomposition.run_name import parse_run
from harvest_assets.errors import HarvestError
from harvest_assets.layout import harvest_root
from harvest_assets.registry import registration_of
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.harvest import Harvest
from harvest_assets.viewer.library import Library


def folder_of(run: str) -> str:
    """The folder below `harvest/` of a run, by any of its names or by the folder's own.

    Raises:
        HarvestError: it is no name of a run.
    """
    if "/" not in run and run not in (".", "..") and (harvest_root() / run).is_dir():
        return run
    return registration_of(parse_run(run).name.key).out_name


def serve(name: str, host: str, port: int, *, browser: bool, tell: Callable[[str], None]) -> None:
    """Show a harvest until Ctrl-C.

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
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        if browser:
            # The socket listens already: the browser waits for the server to accept.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        threading.Thread(target=_warm_up, args=(harvest,), daemon=True).start()
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


def _warm_up(harvest: Harvest) -> None:
    """Open what the first component needs and the overview does not."""
    with suppress(HarvestError, OSError):
        harvest.together(0)
        harvest.input_counts(0)
        harvest.examples(0, "sample")
        harvest.examples(0, "ci")
