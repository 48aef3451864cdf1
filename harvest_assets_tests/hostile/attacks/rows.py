"""Attacks on the rows of tokens."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pyarrow as pa

from harvest_assets_tests.hostile.attacks.payloads import JSON, with_values
from harvest_assets_tests.hostile.attacks.registry import byte_attacks

byte_attacks(
    "rows of tokens",
    "rows",
    JSON
    | {
        "rows of a text": with_values(n_rows="6"),
        "rows of no tokens": with_values(n_ctx=0),
        "tokens below 0": with_values(n_ctx=-4),
        "files of a text": with_values(files="abc"),
        "a file of a list": with_values(files=[["tokens.arrow"]]),
        "no files": with_values(files=[]),
        "a file twice": lambda good: with_values(files=json.loads(good)["files"] * 2)(good),
    },
)


def _npy(shape: str, kind: str = "<i8", data: bytes = bytes(48)) -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


byte_attacks(
    "rows of tokens",
    "rows-order",
    {
        "10^15 places": _npy("(1000000000000000,)"),
        "less than no places": _npy("(-6,)"),
        "places of objects": _npy("(6,)", "|O"),
        "places of a call": _npy("__import__('os').mkdir('executed')"),
        "places beyond the rows": _npy("(6,)", data=np.full(6, 99).tobytes()),
        "places below 0": _npy("(6,)", data=np.full(6, -1).tobytes()),
        "places of floats": _npy("(6,)", "<f8"),
        "a shape of 2^70": _npy(f"({1 << 70},)"),
        "a header nested 5000 deep": _npy("(" * 5000 + ")" * 5000),
        "no header": b"\x93NUMPY\x01\x00\xff\xff",
        "nothing": b"",
    },
)


def _arrow(change: Callable[[bytearray], None]) -> bytes:
    """Rows as lists with offsets, of which some are changed."""
    lists = pa.array([[1, 2, 3, 4]] * 6, pa.list_(pa.int32()))
    sink = BytesIO()
    with pa.ipc.new_file(sink, pa.schema([("tokens", lists.type)])) as writer:
        writer.write_batch(pa.record_batch([lists], names=["tokens"]))
    content = bytearray(sink.getvalue())
    change(content)
    return bytes(content)


def _shift(content: bytearray) -> None:
    offsets = np.arange(0, 28, 4, dtype=np.int32).tobytes()
    place = content.find(offsets)
    wild = np.arange(0, 28, 4, dtype=np.int32) + (1 << 30)
    content[place : place + len(offsets)] = wild.tobytes()


byte_attacks(
    "rows of tokens",
    "rows-arrow",
    {
        "offsets far outside the file": _arrow(_shift),
        "no table": b"ARROW1\0\0" + bytes(64) + b"ARROW1",
        "cut short": lambda good: good[: len(good) // 2],
        "nothing": b"",
    },
)
