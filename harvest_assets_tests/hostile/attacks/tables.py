"""Attacks on the lines and tables of the results."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harvest_assets.results.component_tables import INDEX_SCHEMA
from harvest_assets_tests.hostile.attacks.registry import attack, byte_attacks
from harvest_assets_tests.hostile.readers import READERS
from harvest_assets_tests.hostile.readers.reader import put


def _line(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def changed(good: bytes) -> bytes:
        value = json.loads(good)
        change(value)
        return json.dumps(value).encode()

    return changed


byte_attacks(
    "lines and tables",
    "line",
    {
        "nested 10^5 deep": b"[" * 10**5,
        "no UTF-8": b'{"component_key": "\xff"}',
        "a list": b"[]",
        "a number for a key": _line(lambda v: v.update(component_key=3)),
        "a list for a layer": _line(lambda v: v.update(layer=["a"])),
        "an index below 0": _line(lambda v: v.update(component_idx=-1)),
        "an index of 2^70": _line(lambda v: v.update(component_idx=1 << 70)),
        "an index that is true": _line(lambda v: v.update(component_idx=True)),
        "a mean of a text": _line(lambda v: v.update(mean_ci="1")),
        "a mean of nothing": _line(lambda v: v.update(mean_ci=None)),
        "a mean of 10^400": lambda good: _line(lambda v: v.update(mean_ci=7))(good).replace(
            b'"mean_ci": 7', b'"mean_ci": 1e400'
        ),
        "examples of a text": _line(lambda v: v.update(activation_examples="abc")),
        "a token of a text": _line(lambda v: v["activation_examples"][0]["token_ids"].append("a")),
        "lists of different lengths": _line(
            lambda v: v["activation_examples"][0]["token_ids"].append(1)
        ),
        "a token of 2^40": _line(
            lambda v: v["activation_examples"][0]["token_ids"].__setitem__(0, 1 << 40)
        ),
        "a token of -2": _line(
            lambda v: v["activation_examples"][0]["token_ids"].__setitem__(0, -2)
        ),
        "a token that is true": _line(
            lambda v: v["activation_examples"][0]["token_ids"].__setitem__(slice(1), [True])
        ),
        "a CI that is true": _line(
            lambda v: v["activation_examples"][0]["ci_values"].__setitem__(slice(1), [True])
        ),
        "an activation that is false": _line(
            lambda v: v["activation_examples"][0]["component_acts"].__setitem__(slice(1), [False])
        ),
        "a CI of a list": _line(
            lambda v: v["activation_examples"][0]["ci_values"].__setitem__(0, [1])
        ),
        "a PMI of a text": _line(lambda v: v["input_token_pmi"].update(top=[[1, "x"]])),
        "a PMI of a token below 0": _line(lambda v: v["input_token_pmi"].update(top=[[-1, 1.0]])),
        "a PMI of three": _line(lambda v: v["output_token_pmi"].update(bottom=[[1, 1.0, 1]])),
        "no PMI": _line(lambda v: v.pop("output_token_pmi")),
    },
)
byte_attacks(
    "lines and tables",
    "lines",
    {
        "lines that are no JSON": b"{\n" * 10,
        "a key that is a list": b'{"component_key": ["h.0.mlp:3"]}\n',
        "a line of zeros": bytes(1 << 20),
    },
)
byte_attacks(
    "lines and tables",
    "summary",
    {
        "a list": b"[]",
        "an entry of a list": b'{"a:0": []}',
        "a mean of a text": b'{"a:0": {"layer": "a", "idx": 0, "mean_ci": "1"}}',
        "a layer of a number": b'{"a:0": {"layer": 1, "idx": 0, "mean_ci": 1}}',
        "an index below 0": b'{"a:0": {"layer": "a", "idx": -1, "mean_ci": 1}}',
        "nested 10^5 deep": b"[" * 10**5,
        "no UTF-8": b'{"\xff": 1}',
    },
)


def _table(change: Callable[[dict[str, list[Any]]], object]) -> Callable[[bytes], bytes]:
    def changed(good: bytes) -> bytes:
        table = pq.read_table(BytesIO(good))
        columns = table.to_pydict()
        change(columns)
        schema = INDEX_SCHEMA.with_metadata(table.schema.metadata)
        sink = BytesIO()
        pq.write_table(pa.table(columns, schema=schema), sink)
        return sink.getvalue()

    return changed


def _bomb(good: bytes) -> bytes:
    """A column of 2^27 zeros, which takes almost nothing in the file."""
    sink = BytesIO()
    metadata = pq.read_metadata(BytesIO(good)).metadata
    schema = pa.schema([("offset", pa.int64())], metadata=metadata)
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        block = pa.record_batch([pa.array(np.zeros(1 << 20, np.int64))], schema=schema)
        for _ in range(128):
            writer.write_batch(block)
    return sink.getvalue()


def _set(name: str, place: int, value: Any) -> Callable[[bytes], bytes]:
    return _table(lambda columns: columns[name].__setitem__(place, value))


byte_attacks(
    "lines and tables",
    "index",
    {
        "a component without a key": _set("component_key", 0, None),
        "a component twice": _set("component_key", 0, "h.0.mlp:1"),
        "another order": _set("flat_index", 0, 5),
        "a place below 0": _set("flat_index", 0, -1),
        "less than no firings": _set("firing_count", 0, -1),
        "a bomb of a gigabyte": _bomb,
        "no table": b"PAR1" + bytes(100) + b"PAR1",
        "a footer of 4 GB": b"PAR1" + bytes(8) + b"\xff\xff\xff\xffPAR1",
        "cut short": lambda good: good[:-100],
        "nothing": b"",
    },
)


@attack("lines and tables", "offsets below 0, beyond the end, of another component")
def _(folder: Path) -> bool:
    from harvest_assets.results.components_jsonl import read_component

    (folder / "files").mkdir()
    reader = READERS["index"](folder / "files")
    good, key = reader.seeds()[0], "h.0.mlp:3"
    right = read_component(reader.paths, key)
    for name in ("offset", "length"):
        for value in (-1, -5, 0, 7, 1 << 40, (1 << 63) - 1):
            put(reader.file, _set(name, 3, value)(good))
            if right is None or read_component(reader.paths, key) != right:
                return False
    return True


@attack("lines and tables", "examples of another file, of no rank, of no column")
def _(folder: Path) -> bool:
    from harvest_assets.results.component_index import ComponentIndex
    from harvest_assets.results.examples import StoredExamples

    (folder / "files").mkdir()
    reader = READERS["highest"](folder / "files")
    table = pq.read_table(BytesIO(reader.seeds()[0]))
    bad = [
        table.drop_columns(["rank"]),
        table.drop_columns(["flat_index"]),
        table.replace_schema_metadata({}),
        table.set_column(1, "rank", pa.nulls(len(table), pa.int32())),
        table.set_column(0, "flat_index", pa.array(["x"] * len(table))),
        table.set_column(4, "token_ids", pa.nulls(len(table), pa.list_(pa.int32()))),
    ]

    def examples() -> Any:
        return StoredExamples(reader.paths, ComponentIndex.open(reader.paths)).of("h.0.mlp:3", "ci")

    right = examples()
    reader.file.unlink()
    without = examples()
    if right is None or right == without:
        return False
    for wrong in bad:
        pq.write_table(wrong, put(reader.file, b""))
        if examples() != without:
            return False
    return True
