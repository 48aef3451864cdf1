"""Attacks on kept firings, computed caches, comparisons, labels and files of other programs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load, save

from harvest_assets_tests.files.sealed import change
from harvest_assets_tests.hostile.attacks.payloads import JSON, executes
from harvest_assets_tests.hostile.attacks.registry import attack, byte_attacks, refused
from harvest_assets_tests.hostile.readers import READERS
from harvest_assets_tests.hostile.readers.reader import put


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[bytes], bytes]:
    def changed(good: bytes) -> bytes:
        tensors = load(good)
        change(tensors)
        return save(tensors)

    return changed


byte_attacks(
    "kept firings",
    "firings",
    {
        "offsets that fall": _tensors(lambda t: t["row_offsets"].__setitem__(3, 0)),
        "offsets beyond the firings": _tensors(lambda t: t["row_offsets"].__setitem__(-1, 1 << 60)),
        "offsets below 0": _tensors(lambda t: t["row_offsets"].__setitem__(0, -1)),
        "a position beyond its row": _tensors(lambda t: t["position"].__setitem__(0, 1 << 30)),
        "a position below 0": _tensors(lambda t: t["position"].__setitem__(0, -1)),
        "a component below 0": _tensors(lambda t: t["component"].__setitem__(0, -1)),
        "two rows": _tensors(lambda t: t.update(row_offsets=t["row_offsets"][[0, -1]])),
        "no offsets": _tensors(lambda t: t.pop("row_offsets")),
        "another type": _tensors(lambda t: t.update(component=t["component"].long())),
        "a column too short": _tensors(lambda t: t.update(act=t["act"][:-1].clone())),
        "a tensor more": _tensors(lambda t: t.update(more=torch.ones(3))),
        "a header of 2^60 bytes": b"\0\0\0\0\0\0\0\x10{}",
        "cut short": lambda good: good[: len(good) // 2],
        "nothing": b"",
    },
)


@attack("kept firings", "a pipe, and rows of no, few and 2^62 tokens")
def _(folder: Path) -> bool:
    from harvest_assets.results.firings import KeptFirings

    (folder / "files").mkdir()
    paths = READERS["firings"](folder / "files").paths  # type: ignore[attr-defined]
    config = json.loads(paths.config.read_bytes())
    for length in (0, -1, 1 << 62, 1.5, True, "9", None, [1]):
        put(paths.config, json.dumps({**config, "context_length": length}).encode())
        if not refused(lambda: KeptFirings.open(paths)):
            return False
    put(paths.config, json.dumps({**config, "context_length": 2}).encode())
    if not refused(lambda: list(KeptFirings.open(paths).blocks())):
        return False
    paths.firings.unlink()
    os.mkfifo(paths.firings)
    return refused(lambda: KeptFirings.open(paths))


def _array(values: Any) -> bytes:
    buffer = BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


def _header(text: str) -> bytes:
    line = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line


_HUGE = _header("{'descr': '<i4', 'fortran_order': False, 'shape': (1000000000000,)}")
_PICKLE = _header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + executes()
_MAP: dict[str, bytes] = {
    "no component": _array(np.array([99], np.int32)),
    "a component below 0": _array(np.array([-1], np.int32)),
    "a component twice": _array(np.array([3, 3], np.int32)),
    "10^12 claimed": _HUGE,
    "a pickle": _PICKLE,
    "an archive": b"PK\5\6" + bytes(18),
    "a header that does not end": _header("{'descr': '<i4', 'shape': ("),
    "texts": _array(np.array(["a"])),
    "nothing": b"",
}
_COORDINATES = {
    "of NaN": np.full((36, 2), np.nan, np.float32),
    "of infinity": np.full((36, 2), np.inf, np.float32),
    "for one": np.zeros((1, 2), np.float32),
    "in a row": np.zeros(72, np.float32),
}


@attack("computed files", f"{', '.join(_MAP)}, coordinates {', '.join(_COORDINATES)} (map)")
def _(folder: Path) -> bool:
    (folder / "files").mkdir()
    victim = READERS["map"](folder / "files")
    tried = [b"\0" + it for it in _MAP.values()]
    tried += [b"\1" + _array(it) for it in _COORDINATES.values()]
    return not any(victim(content) for content in tried)


_CONTEXTS: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "components of 2^31": (4, lambda it: np.full_like(it, (1 << 31) - 1)),
    "components below 0": (4, lambda it: np.full_like(it, -1)),
    "firings of NaN": (5, lambda it: np.full_like(it, np.nan)),
    "fewer firings than places": (5, lambda it: it[:-1]),
    "texts that end before they begin": (1, lambda it: np.append(it[-2::-1], it[-1])),
    "fragments below 0": (2, lambda it: np.full_like(it, -9)),
    "fragments of two rows": (2, lambda it: it[:2]),
    "tokens of texts": (0, lambda it: it.astype(str)),
}
_CONTEXT_FILES = {
    "10^12 claimed": b"\0" + _HUGE,
    "a pickle": b"\3" + _PICKLE,
    "no texts": b"\7",
    "a description of a list": b"\6[]",
    "a description of NaN": b'\6{"per_list": NaN, "windows": 1}',
}


@attack("computed files", f"{', '.join([*_CONTEXTS, *_CONTEXT_FILES])} (contexts)")
def _(folder: Path) -> bool:
    (folder / "files").mkdir()
    victim = READERS["contexts"](folder / "files")
    good = victim.seeds()
    arrays = [
        bytes([file]) + _array(change(np.load(BytesIO(good[file][1:]))))
        for file, change in _CONTEXTS.values()
    ]
    return not any(victim(content) for content in (*arrays, *_CONTEXT_FILES.values()))


def _pairs(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], bool]:
    def tried(folder: Path) -> bool:
        from harvest_assets.comparison import stored_pairs

        (folder / "files").mkdir()
        reader: Any = READERS["pairs"](folder / "files")
        table = pq.read_table(BytesIO(reader.seeds()[0]))
        opened = reader._opened
        if stored_pairs.find(opened, opened) is None:
            return False
        pq.write_table(change(table), put(reader.file, b""))
        return stored_pairs.find(opened, opened) is None

    return tried


def _column(name: str, value: Any) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        place = table.column_names.index(name)
        kind = table.schema.field(name).type
        return table.set_column(place, table.schema.field(name), pa.array([value] * 3, kind))

    return changed


def _header_of(**changes: Any) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        header = json.loads(table.schema.metadata[b"pairs"]) | changes
        return table.replace_schema_metadata({b"pairs": json.dumps(header)})

    return changed


for _name, _change in {
    "a share of NaN": _column("jaccard", float("nan")),
    "a share of infinity": _column("recall", float("inf")),
    "a count below 0": _column("n_ab", -1),
    "a component of another harvest": _column("component_a", "no:1"),
    "a component of another harvest in the second": _column("component_b", "<b>:1"),
    "less than no rows": _header_of(n_rows=-1),
    "no matches": _header_of(top=0),
    "other results": _header_of(identity_a="0" * 64),
    "another version": _header_of(version=9),
}.items():
    attack("computed files", f"{_name} (pairs)")(_pairs(_change))


@attack("computed files", "metadata of columns that are not UTF-8 (pairs, labels)")
def _(folder: Path) -> bool:
    (folder / "files").mkdir()
    (folder / "labels").mkdir()
    pairs, labels = READERS["pairs"](folder / "files"), READERS["label-tables"](folder / "labels")
    for reader, skipped in ((pairs, 0), (labels, 1)):
        content = reader.seeds()[0]
        table = pq.read_table(BytesIO(content[skipped:]))
        field = table.schema.field(0).with_metadata({b"\xff": b"\xff"})
        sink = BytesIO()
        pq.write_table(table.cast(table.schema.set(0, field)), sink)
        if not reader(content[:skipped] + sink.getvalue()):
            return False  # nothing is wrong with what is read
    return True


byte_attacks("labels and lists", "list", JSON)
byte_attacks(
    "labels and lists",
    "label-import",
    {
        "a cell of a megabyte": b"component_key,label\na:0," + b"x" * (1 << 20),
        "a label of a bell": b'[{"layer": "a", "index": 0, "description": "\\u0007", "x": NaN}]',
        "an index of 10^30": b'[{"layer": "a", "index": ' + b"9" * 30 + b', "description": "a"}]',
        "a source that is none": b"component_key,label,label_source\na:0,b,root\n",
        "a score of NaN": b"component_key,score_x\na:0,nan\n",
        "a method of a path": b"component_key,score_../../x\na:0,1\n",
        "a column twice": b"component_key,component_key\na:0,a:1\n",
        "more cells than columns": b"component_key\na:0,1,2\n",
        "no UTF-8": b"component_key\n\xff\xfe\n",
        "zeros": bytes(1000),
        "nested 10^5 deep": b"[" * 10**5,
        "a database that is none": b"SQLite format 3\0" + bytes(4000),
    },
)
byte_attacks(
    "harvest.db",
    "harvest-db",
    {
        "zeros": bytes(4096),
        "a header alone": lambda good: good[:100],
        "cut short": lambda good: good[: len(good) // 2],
        "pages of 0xff": lambda good: good[:8192] + b"\xff" * (len(good) - 8192),
    },
)


@attack("other kinds", "records of paths, sizes and kinds that are none")
def _(folder: Path) -> bool:
    from harvest_assets.decompositions.registry import open_decomposition

    (folder / "files").mkdir()
    reader: Any = READERS["other-records"](folder / "files")
    for content in reader.seeds():
        for changes in ({"kind": "evil"}, {"kind": ["x"]}, {"vocab_size": "9"}, {"run": 3}):
            put(reader.file, content)
            change(reader.file, **changes)
            if not refused(lambda: open_decomposition(reader.paths.root)):
                return False
    return True
