"""The API's place in the application; the API itself is made when it is first asked."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from harvest_assets.viewer.rendering import html_page

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send


class Api:
    """An ASGI application that loads FastAPI at the first request.

    Args:
        state: what endpoints find as attributes of `request.app.state`.
    """

    def __init__(self, **state: Any) -> None:
        self._state = state

    @cached_property
    def app(self) -> FastAPI:
        """The application that answers."""
        from harvest_assets.viewer.api.app import make_api

        return make_api(self._state)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        await self.app(scope, receive, send)

    def page(self, _request: Request) -> Response:
        """The endpoints, for people."""
        paths = self.app.openapi()["paths"]
        listed = [
            (method.upper(), path, it["description"], [*map(_parameter, it.get("parameters", ()))])
            for path, methods in paths.items()
            for method, it in methods.items()
        ]
        return html_page("api.html", harvest=None, endpoints=listed)


def _parameter(described: dict[str, Any]) -> tuple[str, str, str]:
    """Name, place and description of a parameter in OpenAPI."""
    schema = described["schema"]
    choices = ", ".join(filter(None, schema.get("enum", ())))
    default = schema.get("default")
    parts = [
        described.get("description", ""),
        f"one of {choices}" if "," in choices else "",
        f"{default} by default" if default else "",
    ]
    return described["name"], described["in"], "; ".join(filter(None, parts))
