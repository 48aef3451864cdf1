"""Bytes that several kinds of attacks are made of."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

JSON: dict[str, bytes | Callable[[bytes], bytes]] = {
    "nested 10^5 deep": b"[" * 10**5,
    "mappings nested 10^5 deep": b'{"a":' * 10**5,
    "longer than 16 MB": b" " * (17 << 20),
    "no UTF-8": b'{"a": "\xff"}',
    "half a surrogate pair": b'{"a": "\\ud800"}',
    "a number of 5000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": 1e999}',
    "a key twice": b'{"a": 1, "a": 2}',
    "a list": b"[1]",
    "null": b"null",
    "nothing": b"",
    "zeros": bytes(100),
}


class Calls:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def saved(value: Any) -> bytes:
    buffer = BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def executes(function: Any = os.mkdir) -> bytes:
    return saved({"a": Calls(function, "executed")})


def evil_code(folder: Path) -> str:
    return (
        f"import os\nos.makedirs({str(folder / 'executed')!r}, exist_ok=True)\nclass Evil: pass\n"
    )


def with_values(**changes: Any) -> Callable[[bytes], bytes]:
    def change(good: bytes) -> bytes:
        value = json.loads(good) | changes
        return json.dumps({k: v for k, v in value.items() if v is not ...}).encode()

    return change
