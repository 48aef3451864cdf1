"""Which HTTP status an error has, the same for pages and the API."""

from __future__ import annotations

from starlette.exceptions import HTTPException

from harvest_assets.viewer.asking import BusyError
from harvest_assets.viewer.contexts.search import InvalidSearchError


def status_of(error: Exception) -> int:
    """400: the request is not valid; 404: what it names is not there; 503: ask again later."""
    if isinstance(error, HTTPException):
        return error.status_code
    if isinstance(error, BusyError):
        return 503
    return 400 if isinstance(error, (InvalidSearchError, UnicodeDecodeError)) else 404
