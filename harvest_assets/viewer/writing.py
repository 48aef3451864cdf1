"""What people write on the pages: edits of a component, and lists."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.unwritable import advice
from harvest_assets.interpretations import lists
from harvest_assets.interpretations.entries import Edit, EditedField, now, sha256_of_text
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets.viewer.export import download
from harvest_assets.viewer.harvest import Harvest
from harvest_assets.viewer.interpreted import interpreted
from harvest_assets.viewer.library import Library
from harvest_assets.viewer.table import TableQuery, order
from harvest_assets.viewer.view_query import component_path, join, run_path

PERSON = "harvest_person"  # the cookie that holds a person's name
_FIELDS: tuple[EditedField, ...] = ("label", "note", "starred", "tags")
_MAX_BYTES = 1 << 17  # of a form: a note of any characters, in the encoding of forms
_YEAR = 365 * 24 * 3600


class Writing:
    """Answers forms.

    Args:
        library: the harvests.
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        # Pages of strangers can send a form here, but not read this.
        self.form_token = secrets.token_urlsafe(32)

    async def edit(self, request: Request) -> Response:
        """Keep what a person changed about a component."""
        return await run_in_threadpool(self._edit, request, await self._form(request))

    async def keep_list(self, request: Request) -> Response:
        """Keep the components of a table as a list."""
        return await run_in_threadpool(self._keep_list, request, await self._form(request))

    def download_list(self, request: Request) -> Response:
        """The components of a table as a list, in a file."""
        harvest = self._library.get(request.path_params["run"])
        title = request.query_params.get("title", "") or f"Components of {harvest.name}"
        content = json.dumps(_listed(harvest, request, title).content(), indent=2)
        return download(content.encode(), "application/json", f"{harvest.name}-list.json")

    def _edit(self, request: Request, form: Mapping[str, str]) -> Response:
        harvest, key = self._library.get(request.path_params["run"]), request.path_params["key"]
        harvest.place_of(key)  # or there is no such component
        person = form.get("person", "").strip()
        if not person:
            raise HTTPException(400, "Give your name, so that others know whose label it is.")
        with _reported():
            Interpretations(harvest.paths).add(_edits(key, person, form))
        path = join(component_path(harvest.name, key), request.url.query)
        answer = RedirectResponse(f"{path}#meaning", 303)
        answer.set_cookie(
            PERSON, quote(person), max_age=_YEAR, httponly=True, samesite="strict", path="/"
        )
        return answer

    def _keep_list(self, request: Request, form: Mapping[str, str]) -> Response:
        harvest = self._library.get(request.path_params["run"])
        with _reported():
            listed = _listed(harvest, request, form.get("title", ""))
            name = lists.keep(harvest.paths, listed)
        return RedirectResponse(f"{run_path(harvest.name)}?listed={quote(name)}#table", 303)

    async def _form(self, request: Request) -> dict[str, str]:
        """The fields of a form of ours.

        Raises:
            HTTPException: it is too long, in another encoding, or not of a page of ours.
        """
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _MAX_BYTES:
                raise HTTPException(413, f"A form may have {_MAX_BYTES:,} bytes.")
        try:
            fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=100)
        except ValueError as error:
            raise HTTPException(400, "The form is not in the encoding of forms.") from error
        form = {name: values[-1] for name, values in fields.items()}
        if not secrets.compare_digest(
            form.get("form_token", "").encode(), self.form_token.encode()
        ):
            raise HTTPException(
                403, "This form is of an earlier start of the server; load its page again."
            )
        return form


@contextmanager
def _reported() -> Iterator[None]:
    """Report what could not be kept, and why, with the status that fits."""
    try:
        yield
    except HarvestError as error:
        raise HTTPException(400, str(error)) from error
    except OSError as error:
        raise HTTPException(500, f"Nothing was kept: {reason_of(error)}.{advice(error)}") from error


def person_of(request: Request) -> str:
    """The name that a person gave before."""
    return unquote(request.cookies.get(PERSON, ""))


def _digest_shown(field: str, row: Mapping[str, Any]) -> str:
    """Identifies the value of a field that a form shows, from a row of `Interpreted.of`."""
    shown: dict[str, Any] = {
        "label": row["label"] if row["label_source"] == "person" else "",
        "note": row["note"] or "",
        "starred": row["starred"],
        "tags": list(row["tags"]),
    }
    return sha256_of_text(json.dumps(shown[field]))


def _edits(key: str, person: str, form: Mapping[str, str]) -> list[Edit]:
    """What differs from what the form showed: another person's edit meanwhile is left alone."""
    values: dict[EditedField, str | bool | tuple[str, ...]] = {
        "label": form.get("label", ""),
        "note": form.get("note", ""),
        "starred": form.get("starred") == "1",
        "tags": tuple(form.get("tags", "").split(",")),
    }
    when = now()
    edits = [Edit(key, field, values[field], person, when) for field in _FIELDS]
    return [edit for edit in edits if _digest(edit) != form.get(f"was_{edit.field}")]


def _digest(edit: Edit) -> str:
    value = list(edit.value) if isinstance(edit.value, tuple) else edit.value
    return sha256_of_text(json.dumps(value))


def _listed(harvest: Harvest, request: Request, title: str) -> lists.ComponentList:
    keys = harvest.frame["component_key"]
    places = order(harvest, TableQuery.of(request.query_params))
    return lists.ComponentList(title, harvest.run, tuple(keys[int(place)] for place in places))


def meaning(harvest: Harvest, place: int) -> dict[str, Any]:
    """What the part of a component's page needs that shows what was written about it."""
    written = interpreted(harvest)
    key, row = harvest.frame["component_key"][place], written.of(place)
    return {
        "row": row,
        "was": {field: _digest_shown(field, row) for field in _FIELDS},
        "scores": written.scores(key, row["label"]),
        "events": written.events(key),
        "problems": written.history.problems,
    }
