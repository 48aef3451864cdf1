"""Attacks that are files of `torch.save`: checkpoints and results."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from harvest_assets_tests.hostile.attacks.payloads import Calls, executes, saved
from harvest_assets_tests.hostile.attacks.registry import attack, byte_attacks, refused
from harvest_assets_tests.hostile.readers.reader import put
from harvest_assets_tests.hostile.readers.run_files import archive_of


def _wide(**tensors: torch.Tensor) -> bytes:
    return saved(tensors)


def _storage(key: bytes, kind: bytes, n_values: int, size: int, stride: int, offset: int) -> bytes:
    """A pickle of {"a": tensor} with one dimension, of a storage as it is claimed."""

    def number(value: int) -> bytes:
        content = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
        return b"\x8a" + bytes([len(content)]) + content

    def text(value: bytes) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value

    storage = b"(" + text(b"storage") + b"ctorch\n" + kind + b"Storage\n" + text(key) + text(b"cpu")
    storage += number(n_values) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset)
    tensor += number(size) + b"\x85" + number(stride) + b"\x85"
    tensor += b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02}" + text(b"a") + tensor + b"s."


def _repacked(change: Callable[[zipfile.ZipFile, dict[str, bytes]], None]) -> bytes:
    """A good checkpoint, its entries written by another hand."""
    with zipfile.ZipFile(BytesIO(_wide(a=torch.ones(4)))) as good:
        entries = {name: good.read(name) for name in good.namelist()}
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        change(archive, entries)
    return buffer.getvalue()


def _packed(archive: zipfile.ZipFile, entries: dict[str, bytes]) -> None:
    for name, content in entries.items():
        archive.writestr(name, content, zipfile.ZIP_DEFLATED)


def _packed_list(archive: zipfile.ZipFile, entries: dict[str, bytes]) -> None:
    for name, content in entries.items():
        bomb = name.endswith("data.pkl")
        kind = zipfile.ZIP_DEFLATED if bomb else zipfile.ZIP_STORED
        archive.writestr(name, content + bytes(1 << 30 if bomb else 0), kind)


def _twice(archive: zipfile.ZipFile, entries: dict[str, bytes]) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in [*entries.items(), *entries.items()]:
            archive.writestr(name, content)


def _nested(archive: zipfile.ZipFile, entries: dict[str, bytes]) -> None:
    inner = BytesIO()
    with zipfile.ZipFile(inner, "w") as nested:
        for name, content in entries.items():
            nested.writestr(name, content)
    archive.writestr("archive/inner.zip", inner.getvalue())


def _leaving(archive: zipfile.ZipFile, entries: dict[str, bytes]) -> None:
    for name, content in entries.items():
        archive.writestr(name.replace("archive/", "../../archive/"), content)


def _without_storage(archive: zipfile.ZipFile, entries: dict[str, bytes]) -> None:
    for name, content in entries.items():
        if "/data/" not in name:
            archive.writestr(name, content)


def _many_entries(claimed: int) -> bytes:
    """A good checkpoint whose end claims a directory of so many entries."""
    good = bytearray(_wide(a=torch.ones(4)))
    place = good.rfind(b"PK\6\6")
    struct.pack_into("<QQ", good, place + 24, claimed, claimed)
    return bytes(good)


_PAST_THE_END = _storage(b"0", b"Float", 10**6, 10**6, 1, 0)
byte_attacks(
    "checkpoint",
    "checkpoint",
    {
        "a call of os.mkdir": executes(),
        "a call of eval": saved({"a": Calls(eval, "__import__('os').mkdir('executed')")}),
        "a bytearray of 20 GB": saved({"a": Calls(bytearray, 20 << 30)}),
        "a tensor made by its class": saved({"a": Calls(torch.Tensor, 1 << 20)}),
        "a Counter": saved({"a": Calls(__import__("collections").Counter, "aa")}),
        "10^15 values claimed": archive_of(_storage(b"0", b"Float", 10**15, 10**15, 1, 0)),
        "more values than the entry has": archive_of(_PAST_THE_END),
        "values of the next entry": archive_of(_storage(b"0", b"Float", 20, 20, 1, 0)),
        "less than no values": archive_of(_storage(b"0", b"Float", -4, 4, 1, 0)),
        "a shape beyond the storage": archive_of(_storage(b"0", b"Float", 16, 10**9, 1, 0)),
        "a shape of 10^15 of no storage": archive_of(
            _storage(b"0", b"Float", 0, 10**15, 1, 0), {"0": b""}
        ),
        "a shape of 10^9 of no storage": archive_of(
            _storage(b"0", b"Float", 0, 10**9, 1, 0), {"0": b""}
        ),
        "an offset outside": archive_of(_storage(b"0", b"Float", 16, 4, 1, 10**12)),
        "a negative offset": archive_of(_storage(b"0", b"Float", 16, 4, 1, -(10**6))),
        "a negative stride": archive_of(_storage(b"0", b"Float", 16, 4, -1, 0)),
        "a stride outside": archive_of(_storage(b"0", b"Float", 16, 4, 10**12, 0)),
        "one value expanded to 10^12": archive_of(_storage(b"0", b"Float", 1, 10**12, 0, 0)),
        "one value expanded to 1000": _wide(a=torch.ones(1).expand(1000)),
        "a key that leaves the archive": archive_of(
            _storage(b"../../../etc/passwd", b"Byte", 8, 8, 1, 0)
        ),
        "complex numbers": _wide(a=torch.ones(3, dtype=torch.complex64)),
        "quantized numbers": _wide(a=torch.quantize_per_tensor(torch.ones(3), 1, 0, torch.qint8)),
        "8-bit floats": _wide(a=torch.ones(3).to(torch.float8_e4m3fn)),
        "a sparse tensor": _wide(a=torch.eye(3).to_sparse()),
        "a sparse tensor in CSR": _wide(a=torch.eye(3).to_sparse_csr()),
        "a tensor without values": _wide(a=torch.ones(10, device="meta")),
        "a nested tensor": _wide(a=torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
        "a list instead of names": saved([torch.ones(3)]),
        "names that are numbers": saved({1: torch.ones(3)}),
        "values that are texts": saved({"a": "b"}),
        "the same bytes 100 times": saved(
            {str(i): t for t in [torch.ones(1 << 16)] for i in range(100)}
        ),
        "packed entries": _repacked(_packed),
        "a bomb of 1 GB": _repacked(_packed_list),
        "entries twice": _repacked(_twice),
        "an archive in an archive": _repacked(_nested),
        "names that leave": _repacked(_leaving),
        "a storage that is not there": _repacked(_without_storage),
        "a directory of 10^15 entries": _many_entries(10**15),
        "a directory of 10^7 entries": _many_entries(10**7),
        "no pickle": archive_of(b""),
        "a pickle that does not end": archive_of(b"\x80\x02" + b"}q\x00" * 1000),
        "a pickle nested 10^5 deep": archive_of(b"\x80\x02" + b"(" * 10**5 + b"t" * 10**5 + b"."),
        "a text of 4 GB claimed": archive_of(b"\x80\x02}X\xff\xff\xff\xffa."),
        "the old format": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        "a tar": b"storages" + bytes(600),
        "nothing": b"",
        "zeros": bytes(5000),
        "cut short": lambda good: good[: len(good) // 2],
        "its end alone": lambda good: good[-200:],
    },
)


def _results(change: Callable[[dict[str, Any]], None]) -> bytes:
    counts = torch.tensor([[2, 1], [1, 3]])
    value = {
        "component_keys": ["a:0", "a:1"],
        "count_i": counts.diagonal().clone(),
        "count_ij": counts,
        "count_total": 9,
    }
    change(value)
    return saved(value)


def _result_attack(name: str, content: Callable[[], bytes]) -> None:
    from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage

    @attack("results (.pt)", name)
    def _(folder: Path) -> bool:
        path = put(folder / "c.pt", content())
        return all(
            refused(lambda kind=kind: kind.load(path))
            for kind in (CorrelationStorage, TokenStatsStorage)
        )


for _name, _change in {
    "other shapes": lambda v: v.update(count_ij=torch.ones(2, 3, dtype=torch.int64)),
    "floats for counts": lambda v: v.update(count_i=torch.ones(2)),
    "complex counts": lambda v: v.update(count_i=torch.ones(2, dtype=torch.complex64)),
    "a component twice": lambda v: v.update(component_keys=["a:0", "a:0"]),
    "components that are numbers": lambda v: v.update(component_keys=[0, 1]),
    "a negative total": lambda v: v.update(count_total=-1),
    "a total that is true": lambda v: v.update(count_total=True),
    "a total that is a text": lambda v: v.update(count_total="9"),
    "no counts": lambda v: v.pop("count_i"),
    "counts expanded": lambda v: v.update(count_ij=torch.ones(1, dtype=torch.int64).expand(2, 2)),
    "keys that cannot be sorted": lambda v: (v.pop("count_i"), v.update({1: 2, (1,): 3})),
    "a call": lambda v: v.update(extra=Calls(os.mkdir, "executed")),
}.items():
    _result_attack(_name, lambda change=_change: _results(change))
_result_attack("a list", lambda: saved([1, 2]))
_result_attack("no archive", lambda: b"PK\5\6" + bytes(18))
