"""Small files that others may have written: read up to a bound, believed as far as checked.

Whatever is wrong with such a file is a `ValueError` (or the `OSError` of reading it); each reader
reports it in a sentence of its own.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import pydantic

_Record = TypeVar("_Record")

# The longest of our own small files, a plan or a manifest, has some kilobytes.
MAX_BYTES = 16 << 20
_MAX_PLACE = 100  # characters of the path to a wrong value
# What a signed integer of 64 bits holds, and an unsigned one: seeds are given as such too.
_MIN_INTEGER, _MAX_INTEGER = -(1 << 63), (1 << 64) - 1


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is longer than `limit` bytes, or a device or pipe, which could keep one
            waiting for ever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no path
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it is longer than {limit:,} bytes")
    return content


def read_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """The value in a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: as `parse_json`, or as `read_bytes`.
    """
    return parse_json(read_bytes(path, limit))


def parse_json(content: bytes) -> Any:
    """The value of a JSON text in UTF-8, without what other readers would take differently.

    Raises:
        ValueError: it is not valid JSON, is nested too deeply, has a key twice in one mapping, a
            number that neither 64 bits nor a float hold, or half of a surrogate pair.
    """
    text = content.decode()
    try:
        value = json.loads(
            text,
            object_pairs_hook=_mapping,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate cannot be encoded
    return value


def text_of(value: Any) -> str:
    """A value that must be a string.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} instead of a string")
    return value


def as_record(value: Any, kind: type[_Record], *, ignore_unknown: bool = False) -> _Record:
    """A dataclass from a mapping that has its fields, no others, of exactly their types.

    Args:
        value: as it was read from JSON; lists become tuples where the field is one.
        kind: the dataclass. What it raises itself is passed on.
        ignore_unknown: accept keys that the dataclass lacks.

    Raises:
        ValueError: a field is missing, unknown, or of another type.
    """
    try:
        return cast(
            "_Record",
            _adapter(cast("Any", kind)).validate_json(
                json.dumps(value), strict=True, extra="ignore" if ignore_unknown else "forbid"
            ),
        )
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))[:_MAX_PLACE]
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(kind)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError(f"it has the key {twice([key for key, _ in pairs])[:100]!r} twice")
    return mapping


def twice(names: Iterable[str]) -> str:
    """The first name that repeats an earlier one; there must be one."""
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def _integer(digits: str) -> int:
    number = int(digits) if len(digits) <= len(str(_MIN_INTEGER)) else None
    if number is None or not _MIN_INTEGER <= number <= _MAX_INTEGER:
        raise ValueError(f"the number {digits[:30]} is out of range")
    return number


def _number(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:30]} is out of range")
    return number


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
