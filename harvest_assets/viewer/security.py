"""Which requests are answered, and what a page may load: only those of its own origin.

A browser on this machine also shows pages of strangers, which may send requests to any address.
They can neither read an answer (other origin) nor use a domain of theirs that resolves to this
machine (the Host would be theirs). Something is written only where the server listens on a loopback
address, for a request that names such an address and comes from a page of this server: the browser
says so (Origin), and the form has a token that only our pages know.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With `no-referrer` browsers would not say that a form is ours.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class OwnOriginOnly:
    """Refuses requests under foreign names and from foreign pages; adds headers to the others.

    Args:
        app: the application that answers.
        host: the address it listens on.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._names = {"localhost", host.lower()}
        self._writable = is_loopback(host)
        if not is_loopback(host):
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, send_with_headers)
        else:
            await PlainTextResponse(refusal, 403)(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers) -> str | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return f"This server does not answer to the name {host!r}."
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return "This server does not answer pages of other origins."
        if headers.get("sec-fetch-site") == "cross-site" and not _is_followed_link(headers):
            return "This server does not answer pages of other sites."
        return None if method in ("GET", "HEAD") else self._refusal_to_write(method, headers)

    def _refusal_to_write(self, method: str, headers: Headers) -> str | None:
        if method != "POST" or not self._writable or not is_loopback(_name_of(headers["host"])):
            return "This server is read-only."
        if "origin" not in headers or headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return "This server accepts forms of its own pages only."
        return None

    def _is_ours(self, host: str) -> bool:
        """Whether a Host is ours: one of our names, or any IP address, which cannot be rebound."""
        name = _name_of(host)
        return name in self._names or _is_address(name)


def _name_of(host: str) -> str:
    """A Host without its port."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name.strip("[]").lower()


def _is_followed_link(headers: Headers) -> bool:
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") in (
        "document",
        None,
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a name or address can be reached from this machine only."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
