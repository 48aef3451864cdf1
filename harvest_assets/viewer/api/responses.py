"""Responses of the API, and the models of those that a model of a run gave."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, reduce
from operator import or_
from types import GenericAlias, UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, create_model
from starlette.responses import JSONResponse

from harvest_assets.live.kind import Answer


class NotStored(JSONResponse):
    """An answer that browsers do not store, as they store no page."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """See `Response`."""
        super().init_headers({"Cache-Control": "no-store", **(headers or {})})


class NotStoredText(NotStored):
    """The same, of what is JSON text already."""

    def render(self, content: str) -> bytes:
        """See `Response`."""
        return content.encode()


def with_tokens_model(answer: type[Answer]) -> type[BaseModel]:
    """The model of what `answering.with_tokens` makes of an answer."""
    base = _with_tokens(answer)
    return create_model(answer.__name__, __base__=base, __doc__=answer.__doc__, run=(str, ...))


@cache
def _with_tokens(answer: type[Answer]) -> type[BaseModel]:
    fields: dict[str, Any] = {
        name: (_type_with_tokens(field.annotation), ...)
        for name, field in answer.model_fields.items()
    }
    if "token_id" in fields:
        fields = {"token": (str, ...), **fields}
    return create_model(answer.__name__, __doc__=answer.__doc__, **fields)


def _type_with_tokens(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, Answer):
        return _with_tokens(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is UnionType:
        return reduce(or_, map(_type_with_tokens, arguments))
    if origin is tuple:
        return GenericAlias(tuple, tuple(map(_type_with_tokens, arguments)))
    return annotation
