"""Attacks made by hand: each is tried, and must be refused.

An attack is *let in* if code of it runs, a file outside of its folder is read or written, memory
grows beyond a bound, or a wrong value is believed. It *crashed* if anything but the reader's own
error came out, or nothing within half a minute.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save

from harvest_assets.data.dataset import dataset_digest, open_dataset
from harvest_assets.data.tokenization import load_tokenizer
from harvest_assets.data.vocabulary import Vocabulary
from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.decompositions.spd.run_config import ModuleInfo
from harvest_assets.decompositions.spd.targets import build_target
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.lease import hold_lease, holder_of, is_held
from harvest_assets.files.records import FileDigest
from harvest_assets.loaders import load_activation_contexts_summary
from harvest_assets.orchestration.progress import read_progress
from harvest_assets.results.component_tables import INDEX_SCHEMA
from harvest_assets.store.garbage import free, removable
from harvest_assets.store.registry import registration_for
from harvest_assets.wandb_client.run_files import choose_checkpoint
from harvest_assets.wandb_client.run_name import RunName, parse_run
from harvest_assets_tests.faults.small_harvest import SmallHarvest
from harvest_assets_tests.files.sealed import change
from harvest_assets_tests.hostile.readers import READERS, archive_of, put

REFUSED, LET_IN, CRASHED = "refused", "let in", "crashed"
_SECONDS = 30
_MAX_KILOBYTES = 300_000


@dataclass(frozen=True)
class Attack:
    """One attack.

    Args:
        kind: of input.
        name: what is tried.
        is_refused: tries it in an empty folder; answers whether it was refused. What is executed
            makes the file `executed` there; what is called `outside` there stays as it is.
    """

    kind: str
    name: str
    is_refused: Callable[[Path], bool]

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


ATTACKS: list[Attack] = []


class _HangsError(BaseException):
    """Nothing came; a reader that reports all exceptions must not catch it as its own."""


def outcome(attack: Attack, folder: Path) -> tuple[str, str]:
    """What became of an attack, and what was seen."""
    outside = folder / "outside"
    outside.mkdir()
    (outside / "kept").write_text("secret")
    with _watched() as grown:
        try:
            refused = attack.is_refused(folder)
        except BaseException as error:  # noqa: BLE001 - a panic of a library is none else
            return CRASHED, repr(error)[:300]
    kept = [path.name for path in outside.iterdir()] == ["kept"]
    if not kept or (outside / "kept").read_text() != "secret":
        return LET_IN, "a file outside was changed"
    if (folder / "executed").exists():
        return LET_IN, "code was executed"
    if grown() > _MAX_KILOBYTES:
        return LET_IN, f"memory grew by {grown() // 1024} MB"
    return (REFUSED, "") if refused else (LET_IN, "a wrong value was believed")


@contextlib.contextmanager
def _watched() -> Iterator[Callable[[], int]]:
    """Memory at its peak, in kilobytes more than before; and an end to what hangs."""

    def hangs(*_: object) -> None:
        raise _HangsError

    handler = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS, 1)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _peak()
    try:
        yield lambda: _peak() - before
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def _peak() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def attack(kind: str, name: str) -> Callable[[Callable[[Path], bool]], Callable[[Path], bool]]:
    """Put a function on the list."""

    def add(is_refused: Callable[[Path], bool]) -> Callable[[Path], bool]:
        ATTACKS.append(Attack(kind, name, is_refused))
        return is_refused

    return add


def _bytes(kind: str, reader: str, attacks: dict[str, bytes | Callable[[bytes], bytes]]) -> None:
    """Attacks that are the bytes of a file; a function makes them of good ones."""
    for name, content in attacks.items():

        def is_refused(folder: Path, content: bytes | Callable[[bytes], bytes] = content) -> bool:
            (folder / "files").mkdir()
            victim = READERS[reader](folder / "files")
            return not victim(content if isinstance(content, bytes) else content(victim.seeds()[0]))

        attack(kind, f"{name} ({reader})")(is_refused)


def refused(call: Callable[[], object]) -> bool:
    """Whether a call ends with the expected error."""
    try:
        call()
    except HarvestError:
        return True
    return False


# Checkpoints and results


class _Calls:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def _saved(value: Any) -> bytes:
    buffer = BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _wide(**tensors: torch.Tensor) -> bytes:
    return _saved(tensors)


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


def _executes(function: Any = os.mkdir) -> bytes:
    return _saved({"a": _Calls(function, "executed")})


_PAST_THE_END = _storage(b"0", b"Float", 10**6, 10**6, 1, 0)
_bytes(
    "checkpoint",
    "checkpoint",
    {
        "a call of os.mkdir": _executes(),
        "a call of eval": _saved({"a": _Calls(eval, "__import__('os').mkdir('executed')")}),
        "a bytearray of 20 GB": _saved({"a": _Calls(bytearray, 20 << 30)}),
        "a tensor made by its class": _saved({"a": _Calls(torch.Tensor, 1 << 20)}),
        "a Counter": _saved({"a": _Calls(__import__("collections").Counter, "aa")}),
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
        "a list instead of names": _saved([torch.ones(3)]),
        "names that are numbers": _saved({1: torch.ones(3)}),
        "values that are texts": _saved({"a": "b"}),
        "the same bytes 100 times": _saved(
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
    return _saved(value)


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
    "a call": lambda v: v.update(extra=_Calls(os.mkdir, "executed")),
}.items():
    _result_attack(_name, lambda change=_change: _results(change))
_result_attack("a list", lambda: _saved([1, 2]))
_result_attack("no archive", lambda: b"PK\5\6" + bytes(18))

# Configs

_GOOD_CONFIG = """\
seed: 0
module_info: [{module_pattern: h.*.mlp, C: 4}]
pretrained_model_class: transformers.LlamaForCausalLM
pretrained_model_name: x
tokenizer_name: x
task_config: {task_name: lm}
"""
_LAUGHS = "a0: &a0 [l,l,l,l,l,l,l,l,l]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40)
)
_MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 30)
)


def _config(**lines: str) -> bytes:
    kept = [line for line in _GOOD_CONFIG.splitlines() if line.partition(":")[0] not in lines]
    return "\n".join([*kept, *(f"{key}: {value}" for key, value in lines.items())]).encode()


_bytes(
    "run config",
    "config",
    {
        "a billion laughs": (_LAUGHS + _GOOD_CONFIG).encode(),
        "laughs in the task": (_LAUGHS + _GOOD_CONFIG.replace("{task_name: lm}", "*a39")).encode(),
        "laughs by merging": (_MERGES + _GOOD_CONFIG).encode(),
        "a list that holds itself": (_GOOD_CONFIG + "a: &a [*a]\n").encode(),
        "nested 100,000 deep": b"[" * 100_000,
        "mappings nested 50,000 deep": b"{a: " * 50_000,
        "longer than 256 kB": (_GOOD_CONFIG + "#" * (1 << 18)).encode(),
        "a key twice": (_GOOD_CONFIG + "seed: 1\n").encode(),
        "a python object": _config(seed="!!python/object/apply:os.mkdir [executed]"),
        "a python name": _config(seed="!!python/name:os.system"),
        "an own tag": _config(seed="!evil x"),
        "no UTF-8": _GOOD_CONFIG.encode() + b"a: \xff\xfe\n",
        "UTF-16": _GOOD_CONFIG.encode("utf-16"),
        "a zero byte": _GOOD_CONFIG.encode() + b"a: \0\n",
        "several documents": (_GOOD_CONFIG + "---\n" + _GOOD_CONFIG).encode(),
        "a number of 5000 digits": _config(seed="9" * 5000),
        "a seed of 10^400": _config(seed="1" + "0" * 400),
        "a seed of 10^30": _config(seed="1" + "0" * 30),
        "a negative seed": _config(seed="-1"),
        "a seed that is not a number": _config(seed=".nan"),
        "a seed to base 60": _config(seed="1" + ":59" * 2000),
        "a date that is none": _config(seed="2001-99-99"),
        "an empty integer": _config(seed='!!int ""'),
        "a truth that is none": _config(seed="!!bool maybe"),
        "a date by a tag": _config(seed="!!timestamp x"),
        "C of 10^12": _config(module_info="[{module_pattern: a, C: 1000000000000}]"),
        "C of 0": _config(module_info="[{module_pattern: a, C: 0}]"),
        "C of infinity": _config(module_info="[{module_pattern: a, C: .inf}]"),
        "10^4 patterns": _config(module_info="[" + "{module_pattern: a, C: 1}," * 4200 + "]"),
        "a pattern of 100,000 stars": _config(
            module_info="[{module_pattern: '" + "*a" * 50_000 + "', C: 1}]"
        ),
        "a context of 10^12": _config(task_config="{task_name: lm, max_seq_len: 1000000000000}"),
        "a buffer of 10^12": _config(task_config="{task_name: lm, buffer_size: 1000000000000}"),
        "a hidden size of 10^12": _config(ci_fn_hidden_dims="[1000000000000]"),
        "1000 hidden layers": _config(ci_fn_hidden_dims="[" + "1," * 1000 + "]"),
        "a name of 100,000 characters": _config(tokenizer_name="x" * 100_000),
        "a list as a name": _config(tokenizer_name="[a]"),
        "a mode of many entries": _config(ci_config="{mode: [" + "a," * 1000 + "]}"),
        "nothing": b"",
        "a number": b"3",
    },
)
_bytes(
    "target config",
    "model-config",
    {
        "a vocabulary of 10^15": b"vocab_size: 1000000000000000",
        "10^12 layers": b"n_layer: 1000000000000",
        "a block of 10^12": b"block_size: 1000000000000",
        "a base of infinity": b"rotary_base: .inf",
        "a base that is not a number": b"rotary_base: .nan",
        "heads of infinity": b"n_head: .inf",
        "laughs": _LAUGHS.encode(),
    },
)


def _llama(folder: Path, **changes: Any) -> Path:
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "evil.py").write_text(_evil(folder))
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 9}
    config = {"model_type": "llama", "num_attention_heads": 2, **sizes, **changes}
    (model / "config.json").write_text(json.dumps(config))
    return model


def _evil(folder: Path) -> str:
    return (
        f"import os\nos.makedirs({str(folder / 'executed')!r}, exist_ok=True)\nclass Evil: pass\n"
    )


_CODE = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
_AUTO = "transformers.AutoModelForCausalLM"
for _name, _class, _changes in (
    ("code beside an unknown model", _AUTO, {"model_type": "evil", "auto_map": _CODE}),
    ("an attention out of a repository", _AUTO, {"attn_implementation": "evil/kernel"}),
    ("the same under its other name", _AUTO, {"_attn_implementation": "evil/kernel:x"}),
    ("experts out of a repository", _AUTO, {"experts_implementation": "evil/kernel"}),
    ("a vocabulary of 10^15 in JSON", _AUTO, {"vocab_size": 10**15}),
    ("10^9 layers in JSON", _AUTO, {"num_hidden_layers": 10**9}),
    ("heads of 10^12", _AUTO, {"head_dim": 10**12}),
    ("a size that is a text", _AUTO, {"hidden_size": "x"}),
    ("a class that is no model", "transformers.pipeline", {}),
    ("a class of the standard library", "os.system", {}),
    ("a class by a path", "transformers.models.llama.../../evil.Evil", {}),
    ("a private class", "transformers.__dict__", {}),
):

    @attack("target config", _name)
    def _(folder: Path, name: str = _class, changes: dict[str, Any] = _changes) -> bool:
        return refused(lambda: build_target(name, str(_llama(folder, **changes))))


@attack("target config", "code beside a known model")
def _(folder: Path) -> bool:
    model = build_target(_AUTO, str(_llama(folder, auto_map=_CODE)))
    return type(model).__module__.startswith("transformers.models.llama.")


@attack("target config", "weights as a pickle beside the config")
def _(folder: Path) -> bool:
    model = _llama(folder)
    (model / "pytorch_model.bin").write_bytes(_executes())
    built = build_target(_AUTO, str(model))  # the weights are the checkpoint's: none is read
    return all(parameter.is_meta for parameter in built.parameters())


@attack("target config", "a pattern that could take for ever")
def _(_folder: Path) -> bool:
    from harvest_assets.decompositions.spd.decomposed_layers import find_layers

    target = torch.nn.ModuleDict({"a" * 900: torch.nn.Linear(1, 1)})
    info = [ModuleInfo(module_pattern="*a" * 450 + "b", C=1)]
    return refused(lambda: find_layers(target, info))


# Tokenizers and datasets


@attack("tokenizer", "code beside it")
def _(folder: Path) -> bool:
    (folder / "evil.py").write_text(_evil(folder))
    code = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(code))
    (folder / "config.json").write_text(json.dumps({"model_type": "evil"}))
    return refused(lambda: load_tokenizer(str(folder)))


@attack("tokenizer", "a name of 100,000 characters")
def _(_folder: Path) -> bool:
    names = ("x" * 100_000, "a/" * 50_000, "a\0b", "\ud800")
    return all(
        refused(lambda n=name: load_tokenizer(n)) and refused(lambda n=name: Vocabulary.open(n))
        for name in names
    )


_bytes(
    "tokenizer",
    "tokenizer",
    {
        "nothing": b"",
        "another JSON": b'{"a": 1}',
        "an id of 10^12": lambda good: good.replace(b'"ab":3', b'"ab":1000000000000'),
        "a negative id": lambda good: good.replace(b'"ab":3', b'"ab":-3'),
        "a merge of what is unknown": lambda good: good.replace(b'["a","b"]', b'["a","z"]'),
        "nested 10^5 deep": b"[" * 10**5,
        "no UTF-8": b'{"version": "\xff"}',
        "an unknown model": lambda good: good.replace(b'"BPE"', b'"Pickle"'),
    },
)


def _dataset(folder: Path, readme: str | None = None) -> str:
    place = folder / "data"
    place.mkdir()
    (folder / "secret.jsonl").write_text('{"text": "secret"}\n')
    if readme is not None:
        split = f"  - split: train\n    path: {readme}\n"
        metadata = f"---\nconfigs:\n- config_name: default\n  data_files:\n{split}---\n"
        (place / "README.md").write_text(metadata)
    return str(place)


def _dataset_refused(name: str) -> bool:
    return refused(lambda: open_dataset(name, "train", "text", streaming=False)) and refused(
        lambda: dataset_digest(name, "train")
    )


@attack("dataset", "a loading script")
def _(folder: Path) -> bool:
    name = _dataset(folder)
    (Path(name) / "data.py").write_text(_evil(folder))
    (Path(name) / "train.jsonl").write_text('{"text": "a"}\n')
    return _dataset_refused(name)


@attack("dataset", "a pickle")
def _(folder: Path) -> bool:
    name = _dataset(folder)
    (Path(name) / "train.pkl").write_bytes(b"cos\nmkdir\n(S'executed'\ntR.")
    return _dataset_refused(name)


@attack("dataset", "a README that names a file above")
def _(folder: Path) -> bool:
    return _dataset_refused(_dataset(folder, "../secret.jsonl"))


@attack("dataset", "a README that names an absolute path")
def _(folder: Path) -> bool:
    return _dataset_refused(_dataset(folder, str(folder / "secret.jsonl")))


@attack("dataset", "the name of a format, which reads the current folder")
def _(folder: Path) -> bool:
    (folder / "train.jsonl").write_text('{"text": "secret"}\n')
    with contextlib.chdir(folder):
        return all(_dataset_refused(name) for name in ("json", "text", "csv", "pandas", "parquet"))


@attack("dataset", "a name that is no path")
def _(_folder: Path) -> bool:
    return all(map(_dataset_refused, ("a\0b", "x" * 5000, "/dev/zero", "\ud800")))


# Names and paths


@attack("name of a run", "parts that leave their folder")
def _(_folder: Path) -> bool:
    parts = (
        "..",
        ".",
        "a/b",
        "a\\b",
        "a\0b",
        "",
        " a",
        "a\n",
        "x" * 201,
        "\u202e",
        "a...b",
        "\ud800",
    )
    run_id = "aaaaaaaa"
    return all(
        refused(lambda p=part: RunName(p, "b", run_id))
        and refused(lambda p=part: RunName("a", p, run_id))
        and refused(lambda p=part: RunName("a", "b", p))
        for part in parts
    )


@attack("name of a run", "an address whose parts are quoted slashes")
def _(_folder: Path) -> bool:
    names = ("%2e%2e", "..%2f..", "a%00b", "%2fetc", "a%5c..", "x" * 300)
    page = "https://wandb.ai/{}/b/runs/aaaaaaaa"
    return all(refused(lambda n=name: parse_run(page.format(n))) for name in names)


@attack("name of a run", "a harvest outside of its folder")
def _(folder: Path) -> bool:
    os.environ["SPD_OUT_DIR"] = str(folder)
    names = ("..", ".", "a\0b", "", "a/..", "a\\b", ".hidden", "x" * 300, "\n")
    return all(refused(lambda n=name: load_activation_contexts_summary(n)) for name in names)


@attack("name of a run", "an output folder that leaves")
def _(folder: Path) -> bool:
    os.environ["SPD_OUT_DIR"] = str(folder)
    names = ("..", "../x", "/x", "a/b", "a\0b", ".x", "x" * 300, "a\nb", "a\\b")
    reference = parse_run("a/b/aaaaaaaa")
    return all(refused(lambda n=name: registration_for(reference, n)) for name in names)


@attack("files of a run on W&B", "a checkpoint whose name is a path")
def _(_folder: Path) -> bool:
    names = (
        "model/../../../outside/kept.pth",
        "model_1/../../x.pth",
        "model\\..\\x.pth",
        "model\0.pth",
        "model" + "x" * 300 + ".pth",
        "model_" + "9" * 5000 + ".pth",
        "/model_1.pth",
    )
    return all(choose_checkpoint([name]) is None for name in names)


# Small files of a harvest

_JSON: dict[str, bytes | Callable[[bytes], bytes]] = {
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
for _reader in (
    "plan",
    "run-checkpoint",
    "token-rows",
    "registration",
    "state",
    "shard",
    "pointer",
):
    _bytes("small files of a harvest", _reader, _JSON)
_bytes("small files of a harvest", "result-config", _JSON)


def _with(**changes: Any) -> Callable[[bytes], bytes]:
    def change(good: bytes) -> bytes:
        value = json.loads(good) | changes
        return json.dumps({k: v for k, v in value.items() if v is not ...}).encode()

    return change


_bytes(
    "small files of a harvest",
    "plan",
    {
        "shards of 10^9": _with(n_shards=10**9),
        "a batch of a text": _with(batch_size="8"),
        "a batch of a fraction": _with(batch_size=8.5),
        "a batch that is true": _with(batch_size=True),
        "a context of nothing": _with(context_length=None),
        "a run that is a list": _with(run=["a"]),
        "what no plan has": _with(extra=1),
        "a threshold of a text": _with(ci_threshold="0"),
        "a version of a list": _with(plan_version=[3]),
    },
)
_bytes(
    "small files of a harvest",
    "run-checkpoint",
    {
        "layers of a text": _with(layers="ab"),
        "components of a text": _with(layers=[["a", "3"]]),
        "a path of a number": _with(config_path=3),
        "a vocabulary of a list": _with(vocab_size=[9]),
    },
)
_bytes(
    "small files of a harvest",
    "token-rows",
    {
        "rows above their folder": _with(fingerprint=".."),
        "rows elsewhere": _with(fingerprint="/etc"),
        "rows of a long name": _with(fingerprint="a" * 300),
        "rows of a number": _with(fingerprint=3),
        "rows of another script": _with(fingerprint="é"),
        "less than no rows": _with(n_rows=-1),
        "rows of no tokens": _with(n_ctx=0),
    },
)
_bytes(
    "small files of a harvest",
    "registration",
    {
        "a folder above": _with(out_name=".."),
        "a folder elsewhere": _with(out_name="../../x"),
        "a folder of a number": _with(out_name=3),
        "a path of a list": _with(path=["a"]),
        "a long folder": _with(out_name="x" * 300),
    },
)
_bytes(
    "small files of a harvest",
    "pointer",
    {
        "the folder above": _with(directory=".."),
        "its own folder": _with(directory="."),
        "an absolute folder": _with(directory="/etc"),
        "a way out": _with(directory="../../../outside"),
        "what is saved": _with(directory="saved"),
        "a long name": _with(directory="x" * 300),
        "a list of folders": _with(directory=["a"]),
    },
)
_bytes(
    "small files of a harvest",
    "shard",
    {
        "rows of a text": _with(first_row="0"),
        "rows that end before they begin": _with(first_row=5, last_row=3),
        "rows below 0": _with(first_row=-5),
        "rows to 2^63": _with(last_row=1 << 63),
        "another version": _with(format_version=99),
    },
)


@attack("small files of a harvest", "leases of nobody")
def _(folder: Path) -> bool:
    path = folder / "leases" / "merge.json"
    path.parent.mkdir()
    pids = ("abc", -1, 0, 10**18, 10**30, [1], None, 1.5, True)
    for pid in pids:
        put(path, json.dumps({"host": _host(), "pid": pid, "token": "x", "started": "1"}).encode())
        os.utime(path, (0, 0))
        if is_held(path):
            return False
        with hold_lease(path, "The merge"):
            pass
    for content in _JSON.values():
        put(path, content)
        os.utime(path, (0, 0))
        if is_held(path) or holder_of(path):
            return False
    return True


def _host() -> str:
    from harvest_assets.files.atomic import host_name

    return host_name()


@attack("small files of a harvest", "temporary files of a process of 30 digits")
def _(folder: Path) -> bool:
    from harvest_assets.files.atomic import abandoned

    (folder / f".x.{_host()}-{'9' * 30}-{'0' * 32}.tmp").touch()
    return len(abandoned(folder)) == 1


@attack("small files of a harvest", "progress of what is no number")
def _(folder: Path) -> bool:
    path = folder / "progress.json"
    good = {"rows_done": 1, "rows": 2, "tokens_per_row": 3, "seconds": 4.0}
    changes: list[dict[str, Any]] = [{name: "x"} for name in good]
    changes += [{name: [1]} for name in good] + [{"seconds": None}, {"rows": True}, {"more": 1}]
    contents = [json.dumps(good | change).encode() for change in changes]
    contents += list(_JSON.values())
    return all(read_progress(put(path, content)) is None for content in contents)


@attack("small files of a harvest", "a pipe instead of a file")
def _(folder: Path) -> bool:
    from harvest_assets.store.plan import HarvestPlan

    os.mkfifo(folder / "plan.json")
    os.mkfifo(folder / "model_1.pth")
    return refused(lambda: HarvestPlan.open(folder)) and refused(
        lambda: Checkpoint.open(folder / "model_1.pth")
    )


@attack("small files of a harvest", "a device instead of a file")
def _(folder: Path) -> bool:
    from harvest_assets.store.plan import HarvestPlan

    (folder / "plan.json").symlink_to("/dev/zero")
    (folder / "model_1.pth").symlink_to("/dev/zero")
    return refused(lambda: HarvestPlan.open(folder)) and refused(
        lambda: Checkpoint.open(folder / "model_1.pth")
    )


@attack("small files of a harvest", "a manifest that names files elsewhere")
def _(folder: Path) -> bool:
    from harvest_assets.files import manifest

    paths = HarvestLayout(folder / "harvest")
    for name in ("../outside/kept", "/etc/passwd", "a/../../outside/kept", ""):
        entries = {"files": {name: {"size": 6, "sha256": "0", "plan": "x"}}}
        paths.root.mkdir(exist_ok=True)
        put(paths.manifest, json.dumps(entries).encode())
        problems = manifest.disagreements(paths, deep=True)
        if manifest.read(paths) or any("kept" in problem for problem in problems):
            return False
    return True


# States


def _settings(**changes: Any) -> Callable[[bytes], bytes]:
    def change(good: bytes) -> bytes:
        value = json.loads(good)
        value["settings"] |= changes
        return json.dumps(value).encode()

    return change


_bytes(
    "state",
    "state",
    {
        "files elsewhere": _with(files={"../../outside/kept": {"size": 6, "sha256": "0"}}),
        "no files, so no digests": _with(files={}),
        "files of a list": _with(files=["statistics.safetensors"]),
        "tokens below 0": _with(total_tokens_processed=-1),
        "tokens of a text": _with(total_tokens_processed="9"),
        "tokens of 2^63": _with(total_tokens_processed=1 << 63),
        "no layers": _settings(layers=[]),
        "a layer twice": _settings(layers=[["a", 12], ["a", 12]]),
        "components of 10^12": _settings(layers=[["a", 10**12]]),
        "components below 0": _settings(layers=[["a", -1]]),
        "components of a text": _settings(layers=[["a", "24"]]),
        "a vocabulary of 10^18": _settings(vocab_size=10**18),
        "a context of 10^18": _settings(context_tokens_per_side=10**18),
        "another context": _settings(context_tokens_per_side=4),
        "a threshold of a text": _settings(ci_threshold="1"),
        "what no settings have": _settings(extra=1),
    },
)


def _sample(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[bytes], bytes]:
    def changed(good: bytes) -> bytes:
        from safetensors.torch import load

        tensors = {name: tensor.clone() for name, tensor in load(good).items()}
        change(tensors)
        return save({name: tensor.contiguous() for name, tensor in tensors.items()})

    return changed


def _header(header: bytes, data: bytes = b"", claimed: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if claimed is None else claimed) + header + data


_bytes(
    "state",
    "state-tensors",
    {
        "a component beyond the last": _sample(lambda t: t["component"].fill_(10**6)),
        "a component below 0": _sample(lambda t: t["component"].fill_(-1)),
        "components in another order": _sample(
            lambda t: t.update(component=t["component"].flip(0))
        ),
        "a token beyond the vocabulary": _sample(lambda t: t["token_ids"].fill_(10**6)),
        "a token below -1": _sample(lambda t: t["token_ids"].fill_(-2)),
        "a row below 0": _sample(lambda t: t["row"].fill_(-1)),
        "columns of different lengths": _sample(lambda t: t.update(row=t["row"][:3])),
        "another type": _sample(lambda t: t.update(row=t["row"].to(torch.int32))),
        "a column less": _sample(lambda t: t.pop("row")),
        "a header of 2^60 bytes": _header(b"{}", claimed=1 << 60),
        "a header that is no JSON": _header(b"{{"),
        "a tensor outside the file": _header(
            b'{"row": {"dtype": "I64", "shape": [1000], "data_offsets": [0, 8000]}}', bytes(8)
        ),
        "tensors that overlap": _header(
            b'{"row": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},'
            b'"component": {"dtype": "I64", "shape": [1], "data_offsets": [4, 12]}}',
            bytes(12),
        ),
        "a shape of 2^62": _header(
            b'{"row": {"dtype": "I64", "shape": [4611686018427387904, 4], "data_offsets": [0, 0]}}'
        ),
        "nothing": b"",
    },
)


@attack("state", "counts below 0, and sums that are no numbers")
def _(folder: Path) -> bool:
    from harvest_assets.harvester import HarvesterState

    (folder / "files").mkdir()
    state = READERS["state"](folder / "files").file.parent
    path, meta = state / "statistics.safetensors", state / "state.json"
    good = {name: tensor.clone() for name, tensor in load_file(path).items()}
    for name, value in (
        ("ci_histogram", -1),
        ("input_token_totals", -1),
        ("ci_sums", float("nan")),
        ("output_token_prob_mass", float("inf")),
        ("output_token_prob_totals", -1.0),
    ):
        bad = {key: tensor.clone() for key, tensor in good.items()}
        bad[name].view(-1)[0] = value
        put(path, save(bad))
        names = json.loads(meta.read_bytes())["files"]
        change(meta, files={name: vars(FileDigest.of(state / name)) for name in names})
        if not refused(lambda: HarvesterState.load(state)):
            return False
    return True


# Lines and tables


def _line(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def changed(good: bytes) -> bytes:
        value = json.loads(good)
        change(value)
        return json.dumps(value).encode()

    return changed


_bytes(
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
_bytes(
    "lines and tables",
    "lines",
    {
        "lines that are no JSON": b"{\n" * 10,
        "a key that is a list": b'{"component_key": ["h.0.mlp:3"]}\n',
        "a line of zeros": bytes(1 << 20),
    },
)
_bytes(
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


_bytes(
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
    from harvest_assets.results.component_tables import ComponentIndex
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


# Rows of tokens

_bytes(
    "rows of tokens",
    "rows",
    _JSON
    | {
        "rows of a text": _with(n_rows="6"),
        "rows of no tokens": _with(n_ctx=0),
        "tokens below 0": _with(n_ctx=-4),
        "files of a text": _with(files="abc"),
        "a file of a list": _with(files=[["tokens.arrow"]]),
        "no files": _with(files=[]),
        "a file twice": lambda good: _with(files=json.loads(good)["files"] * 2)(good),
    },
)


def _npy(shape: str, kind: str = "<i8", data: bytes = bytes(48)) -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


_bytes(
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


_bytes(
    "rows of tokens",
    "rows-arrow",
    {
        "offsets far outside the file": _arrow(_shift),
        "no table": b"ARROW1\0\0" + bytes(64) + b"ARROW1",
        "cut short": lambda good: good[: len(good) // 2],
        "nothing": b"",
    },
)

# Links


def _harvest(folder: Path) -> SmallHarvest:
    harvest = SmallHarvest(folder / "harvest" / "x-aaaaaaaa", n_shards=1)
    harvest.prepare()
    return harvest


def _linked(folder: Path, name: str) -> SmallHarvest:
    """A harvest of which one folder leads outside."""
    harvest = _harvest(folder)
    place = harvest.root / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(folder / "outside", target_is_directory=True)
    return harvest


for _folder in (
    *("shards", "shards/00", "shards/00/saved", "merged"),
    *("leases", "logs", "activation_contexts", "correlations"),
):

    @attack("links", f"harvesting through {_folder}")
    def _(folder: Path, name: str = _folder) -> bool:
        return refused(_linked(folder, name).run)


@attack("links", "cleaning what a link leads to")
def _(folder: Path) -> bool:
    os.environ["SPD_OUT_DIR"] = str(folder)
    harvest = _harvest(folder)
    harvest.shard("00")
    harvest.merge()
    (folder / "outside" / "kept").rename(folder / "current.json")
    shard = harvest.paths.shard("00")
    shard.parent.mkdir(exist_ok=True)
    shard.symlink_to(folder, target_is_directory=True)
    free(removable())
    (folder / "current.json").rename(folder / "outside" / "kept")
    return True


@attack("links", "a file that is replaced, not what it leads to")
def _(folder: Path) -> bool:
    harvest = _harvest(folder)
    harvest.paths.plan.unlink()
    harvest.paths.plan.symlink_to(folder / "outside" / "kept")
    harvest.run()
    return not harvest.paths.plan.is_symlink()
