"""One function per public reader: hostile bytes in, nothing but the permitted errors out.

Each reader is a class: made once, it writes good files with the product's own writers; called with
bytes, it puts them in the place of one of them and reads. What it reads in the end is looked at, so
that a wrong value is not silently believed. Property tests and the fuzzer share them.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import dataclasses
import io
import json
import math
import os
import shutil
import tempfile
import warnings
import zipfile
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from harvest_assets.data.token_rows import TokenRows, write_manifest, write_tokens
from harvest_assets.data.vocabulary import Vocabulary
from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.decompositions.spd.run_checkpoint import RunCheckpoint
from harvest_assets.decompositions.spd.run_config import load_run_config
from harvest_assets.decompositions.spd.targets.llama_simple import LlamaSimpleConfig
from harvest_assets.demo.built_in import RUN as DEMO_RUN
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.lease import hold_lease, holder_of, is_held
from harvest_assets.files.manifest import disagreements, read
from harvest_assets.files.records import FileDigest
from harvest_assets.files.sanitize import presentable
from harvest_assets.files.yaml_file import read_mapping, validated
from harvest_assets.harvester import HarvesterState
from harvest_assets.loaders import tokenizer_name
from harvest_assets.orchestration.progress import ProgressWriter, read_progress
from harvest_assets.results.component_tables import ComponentIndex, read_index
from harvest_assets.results.components_jsonl import (
    parse_component,
    read_component,
    read_summary,
    scan_lines,
)
from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage
from harvest_assets.results.examples import StoredExamples
from harvest_assets.store.harvest_name import HarvestReference, parse_harvest
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.registry import registration_of
from harvest_assets.store.shards import StoredState
from harvest_assets.store.shared_rows import SharedTokenRows
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets.wandb_client.run_name import RunName
from harvest_assets_tests.faults.small_harvest import SmallHarvest
from harvest_assets_tests.files.sealed import change, sealed
from harvest_assets_tests.viewer.synthetic import write_harvest

_LONGEST_SENTENCE = 2000


def scratch_folder() -> Path:
    """A folder of its own, in memory where there is such a place."""
    shared = Path("/dev", "shm")
    return Path(tempfile.mkdtemp(prefix="hostile-", dir=shared if shared.is_dir() else None))


def put(path: Path, content: bytes) -> Path:
    """A new file: one that is mapped somewhere must not change."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return path


def put_sealed(path: Path, content: bytes) -> None:
    """The bytes as a file, its digest made to fit where they are a mapping that has one."""
    try:
        value = json.loads(content)
        if "digest" in value:
            content = json.dumps(sealed(value)).encode()
    except (ValueError, TypeError, RecursionError):
        pass
    put(path, content)


class Reader(ABC):
    """Reads hostile bytes.

    Args:
        folder: for its files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def seeds(self) -> list[bytes]:
        """What the product's own writers write."""

    @abstractmethod
    def read(self, content: bytes) -> None:
        """Read, and look at what was read."""

    def __call__(self, content: bytes) -> bool:
        """Were the bytes taken? They were refused if not; any other error is passed on."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.read(content)
        except HarvestError as error:
            sentence = presentable(str(error))
            assert sentence.strip(), "no sentence"
            assert len(sentence) < _LONGEST_SENTENCE, "a sentence nobody reads"
            sentence.encode()
            return False
        return True


class Config(Reader):
    """`final_config.yaml`."""

    def seeds(self) -> list[bytes]:
        older = b"task_config: {task_name: lm}\ntarget_module_patterns: [a, &x b, *x]\nC: 3\n"
        return [(DEMO_RUN / "final_config.yaml").read_bytes(), older]

    def read(self, content: bytes) -> None:
        config = load_run_config(put(self.folder / "final_config.yaml", content))
        assert all(0 < info.C < 1 << 25 for info in config.decomposed_modules)
        assert 0 <= config.seed < 1 << 63


class ModelConfig(Reader):
    """`model_config.yaml`."""

    def seeds(self) -> list[bytes]:
        return [b"n_layer: 2\nn_embd: 8\nn_head: 2\nvocab_size: 9\nn_key_value_heads: 1\n"]

    def read(self, content: bytes) -> None:
        path = put(self.folder / "model_config.yaml", content)
        config = validated(path, read_mapping(path), LlamaSimpleConfig)
        assert math.isfinite(config.rotary_base)
        assert config.n_embd < 1 << 27


class CheckpointArchive(Reader):
    """`model_<n>.pth`, all bytes of it."""

    def seeds(self) -> list[bytes]:
        state = {
            "target_model.a.weight": torch.ones(3, 2),
            "_components.h-0-a.V": torch.ones(2, 4, dtype=torch.bfloat16).T,
            "_components.h-0-a.bias": torch.ones(3, dtype=torch.int64),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return [buffer.getvalue()]

    def read(self, content: bytes) -> None:
        opened = Checkpoint.open(put(self.folder / "model_1.pth", content))
        for tensor in opened.state.values():
            assert tensor.nbytes <= len(content)
            tensor.float().sum()


class CheckpointPickle(CheckpointArchive):
    """The pickle in a checkpoint, in an archive that is whole."""

    def seeds(self) -> list[bytes]:
        (archive,) = super().seeds()
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            return [opened.read(name) for name in opened.namelist() if name.endswith("data.pkl")]

    def read(self, content: bytes) -> None:
        super().read(archive_of(content))


def archive_of(pickle: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """An archive as `torch.save` writes it around this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/byteorder", b"little")
        given = storages or {str(i): bytes(64) for i in range(3)}
        for key, content in given.items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


class Results(Reader):
    """The pickle of `component_correlations.pt` and `token_stats.pt`, in a whole archive."""

    def seeds(self) -> list[bytes]:
        counts = torch.arange(4).reshape(2, 2)
        keys = ["a:0", "a:1"]
        CorrelationStorage(keys, counts[0], counts, 9).save(self.folder / "c.pt")
        wide = counts.double()
        stats = (keys, 2, 9, counts, wide[0], wide.float(), wide[0], wide[0])
        TokenStatsStorage(*stats).save(self.folder / "t.pt")
        found = []
        for name in ("c.pt", "t.pt"):
            with zipfile.ZipFile(self.folder / name) as opened:
                found += [opened.read(n) for n in opened.namelist() if n.endswith("data.pkl")]
        return found

    def read(self, content: bytes) -> None:
        path = put(self.folder / "results.pt", archive_of(content))
        for kind in (CorrelationStorage, TokenStatsStorage):
            try:
                opened = kind.load(path)
            except HarvestError:
                continue
            sizes = (len(opened.component_keys), vars(opened).get("vocab_size"))
            for tensor in (t for t in vars(opened).values() if isinstance(t, torch.Tensor)):
                tensor.sum()
                assert tensor.shape[0] in sizes


@cache
def _whole_harvest() -> Path:
    """A small harvest, made once a process."""
    folder = scratch_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    harvest = SmallHarvest(folder / "harvest", n_shards=1)
    harvest.run("all")
    return harvest.root


class _OfHarvest(Reader):
    """Reads a file of a harvest that is whole otherwise."""

    FILE = ""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.paths = HarvestLayout(folder / "harvest" / "x-aaaaaaaa")
        shutil.copytree(_whole_harvest(), self.paths.root)
        self.shard = StoredState.find(self.paths.shard_current("00")).directory

    @property
    def file(self) -> Path:
        """The one that is replaced."""
        return self.paths.root / self.FILE

    def seeds(self) -> list[bytes]:
        return [self.file.read_bytes()]


class Plan(_OfHarvest):
    """`plan.json`, its digest made to fit where that is possible."""

    FILE = "plan.json"

    def read(self, content: bytes) -> None:
        put(self.file, content)
        try:
            value = json.loads(content)
            fields = {k: v for k, v in value.items() if k not in ("plan_version", "digest")}
            value["digest"] = HarvestPlan(**fields).digest
            put(self.file, json.dumps(value).encode())
        except (ValueError, TypeError, AttributeError, RecursionError, HarvestError):
            pass
        plan = HarvestPlan.open(self.paths.root)
        assert 1 <= plan.n_shards <= 16
        assert type(plan.batch_size) is int
        assert plan.batch_size > 0
        plan.share(0, 10_000)
        plan.compatibility_digest("0")


class RunCheckpointFile(_OfHarvest):
    """`run_checkpoint.json`."""

    FILE = "run_checkpoint.json"

    def seeds(self) -> list[bytes]:
        checkpoint = RunCheckpoint(
            "local/a/x-aaaaaaaa", "/c.yaml", "/m.pth", 3, "0" * 64, (("h", 3),), 9, None, 8, "t", 9
        )
        stamped = dataclasses.replace(checkpoint, file_stamps=((7, 1, 2, 3), (9, 1, 2, 4)))
        stamped.write(self.paths.root)
        return [self.file.read_bytes()]

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        opened = open_decomposition(self.paths.root)
        assert type(opened.n_components) is int
        Path(opened.config_path).exists()


class Rows(_OfHarvest):
    """`token_rows.json`."""

    FILE = "token_rows.json"

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        rows = SharedTokenRows.open(self.paths.root)
        assert rows.directory.parent.name == "data"
        assert rows.fingerprint.isalnum()


class Manifest(_OfHarvest):
    """`manifest.json`."""

    FILE = "manifest.json"

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        assert all(isinstance(problem, str) for problem in disagreements(self.paths))
        for name in read(self.paths):
            assert (self.paths.root / name).resolve().is_relative_to(self.paths.root.resolve())


class ResultConfig(_OfHarvest):
    """`config.json` beside the results."""

    FILE = "activation_contexts/config.json"

    def seeds(self) -> list[bytes]:
        return [
            b'{"tokenizer_name": "a/b", "n_tokens": 9}',
            b'{"wandb_path": "wandb:a/b/runs/aaaaaaaa"}',
        ]

    def read(self, content: bytes) -> None:
        put(self.file, content)
        assert isinstance(tokenizer_name(self.paths), str)


class Summary(_OfHarvest):
    """`summary.json`."""

    FILE = "activation_contexts/summary.json"

    def read(self, content: bytes) -> None:
        put(self.file, content)
        for entry in read_summary(self.paths).values():
            assert math.isfinite(entry.mean_ci)


class Line(_OfHarvest):
    """One line of `components.jsonl`."""

    FILE = "activation_contexts/components.jsonl"

    def seeds(self) -> list[bytes]:
        return self.file.read_bytes().splitlines(keepends=True)[:3]

    def read(self, content: bytes) -> None:
        component = parse_component(self.file, content)
        for example in component.activation_examples:
            lengths = {len(example.token_ids), len(example.ci_values), len(example.component_acts)}
            assert len(lengths) == 1
            assert all(type(token) is int for token in example.token_ids)
            assert all(map(math.isfinite, example.ci_values))


class Lines(_OfHarvest):
    """`components.jsonl`, with and without an index beside it."""

    FILE = "activation_contexts/components.jsonl"

    def read(self, content: bytes) -> None:
        put(self.file, content)
        read_component(self.paths, "h.0.mlp:3")
        scan_lines(self.paths)


class Index(_OfHarvest):
    """`component_index.parquet`."""

    FILE = "activation_contexts/component_index.parquet"

    def read(self, content: bytes) -> None:
        put(self.file, content)
        index = ComponentIndex.open(self.paths)
        if index is not None:
            for key in ("h.0.mlp:3", "h.1.attn:9", "no"):
                found = read_component(self.paths, key, index)
                assert found is None or found.component_key == key
        table = read_index(self.paths)
        assert table["flat_index"].to_pylist() == list(range(len(table)))


class Highest(_OfHarvest):
    """`highest_ci_examples.parquet`."""

    FILE = "activation_contexts/highest_ci_examples.parquet"

    def read(self, content: bytes) -> None:
        put(self.file, content)
        stored = StoredExamples(self.paths, ComponentIndex.open(self.paths))
        for example in stored.of("h.0.mlp:3", "ci") or ():
            assert example.row is not None
            assert example.position is not None
            assert isinstance(example.token_ids, list)


class StateDescription(_OfHarvest):
    """`state.json`, sealed."""

    @property
    def file(self) -> Path:
        return self.shard / "state" / "state.json"

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        state = HarvesterState.load(self.shard / "state")
        assert state.ci_sums.shape == (state.settings.n_components,)


class StateTensors(_OfHarvest):
    """A tensor file of a state, described and sealed as it is."""

    NAMES = ("statistics", "sample", "highest_ci", "highest_activation")

    @property
    def file(self) -> Path:
        return self.shard / "state" / "sample.safetensors"

    def read(self, content: bytes) -> None:
        state = self.shard / "state"
        put(self.file, content)
        files = {f"{name}.safetensors" for name in self.NAMES}
        change(
            state / "state.json", files={name: vars(FileDigest.of(state / name)) for name in files}
        )
        opened = HarvesterState.load(state)
        for component in range(opened.settings.n_components):
            opened.examples(component)


class ShardDescription(_OfHarvest):
    """`shard.json`, sealed."""

    @property
    def file(self) -> Path:
        return self.shard / "shard.json"

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        stored = StoredState.find(self.paths.shard_current("00"))
        assert stored is not None
        assert 0 <= stored.rows.start <= stored.rows.stop


class Pointer(_OfHarvest):
    """`current.json`, sealed."""

    @property
    def file(self) -> Path:
        return self.paths.shard_current("00")

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        stored = StoredState.find(self.file)
        assert stored is not None
        assert stored.directory.parent == self.file.parent
        assert stored.directory.name not in ("", ".", "..", "saved")


class Lease(_OfHarvest):
    """`leases/<work>.json`."""

    FILE = "leases/merge.json"

    def seeds(self) -> list[bytes]:
        older = b'{"host": "a", "pid": 12, "started": "3", "job": null, "token": ".merge.json"}'
        with hold_lease(self.file, "It"):
            return [self.file.read_bytes(), older]

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        assert is_held(self.file) in (True, False)
        holder = holder_of(self.file)
        assert holder is None or holder.pid > 0


class Progress(_OfHarvest):
    """`progress.json`."""

    FILE = "shards/00/progress.json"

    def seeds(self) -> list[bytes]:
        ProgressWriter(self.file, 8, 16, lambda _: None)(8)
        return [self.file.read_bytes()]

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        str(read_progress(self.file))


class Registration(_OfHarvest):
    """`registered/<entity>/<project>/<run_id>.json`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        os.environ["SPD_OUT_DIR"] = str(folder)

    @property
    def file(self) -> Path:
        return self.folder / "registered" / "local" / "a" / "x-aaaaaaaa.json"

    def seeds(self) -> list[bytes]:
        return [
            b'{"path": "/a/b", "out_name": "mine"}',
            b'{"path": null, "out_name": "x-aaaaaaaa"}',
            json.dumps(sealed({"format_version": 1, "path": None, "out_name": "b"})).encode(),
        ]

    def read(self, content: bytes) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        put_sealed(self.file, content)
        found = registration_of("local/a/x-aaaaaaaa")
        assert found.layout.root.parent == self.folder / "harvest"


class TokenRowsDescription(Reader):
    """`rows.json`."""

    FILE = "rows.json"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        tokens = np.arange(24).reshape(6, 4)
        file = write_tokens(folder, [tokens], 4, None)
        write_manifest(folder, [file], np.arange(6)[::-1].copy(), 4, {})

    def seeds(self) -> list[bytes]:
        return [(self.folder / self.FILE).read_bytes()]

    def read(self, content: bytes) -> None:
        put_sealed(self.folder / self.FILE, content)
        rows = TokenRows.open(self.folder)
        assert rows.rows(0, rows.n_rows).shape == (rows.n_rows, rows.n_ctx)


class TokenRowsOrder(TokenRowsDescription):
    """`order.npy`."""

    FILE = "order.npy"


class TokenRowsArrow(TokenRowsDescription):
    """The Arrow file of rows, of the recorded size."""

    FILE = "tokens.arrow"

    def seeds(self) -> list[bytes]:
        lists = pa.array([[1, 2, 3, 4]] * 6, pa.list_(pa.int32()))
        sink = io.BytesIO()
        with pa.ipc.new_file(sink, pa.schema([("tokens", lists.type)])) as writer:
            writer.write_batch(pa.record_batch([lists], names=["tokens"]))
        return [*super().seeds(), sink.getvalue()]

    def read(self, content: bytes) -> None:
        manifest = self.folder / "rows.json"
        (file,) = json.loads(manifest.read_bytes())["files"]
        change(manifest, files=[{**file, "size": len(content)}])
        super().read(content)


class TokenizerFile(Reader):
    """`tokenizer.json`."""

    def seeds(self) -> list[bytes]:
        return [_small_tokenizer()]

    def read(self, content: bytes) -> None:
        put(self.folder / "tokenizer.json", content)
        vocabulary = Vocabulary.open(str(self.folder))
        for token in (-1, 0, 1, vocabulary.size - 1, vocabulary.size):
            assert isinstance(vocabulary.shown(token).text, str)


def _small_tokenizer() -> bytes:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocab = {"[UNK]": 0, "a": 1, "b": 2, "ab": 3}
    tokenizer = Tokenizer(models.BPE(vocab, [("a", "b")], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("[EOS]", special=True)])
    return tokenizer.to_str().encode()


class Name(Reader):
    """What people give as the name of a run."""

    def seeds(self) -> list[bytes]:
        return [
            b"goodfire/spd/s-d2ec3bfe",
            b"wandb:goodfire/spd/runs/s-d2ec3bfe",
            b"https://wandb.ai/goodfire/spd/runs/s-d2ec3bfe?nw=1#x",
            b"./a/../model_3.pth",
            b"goodfire/spd/s-d2ec3bfe@dense",
        ]

    def read(self, content: bytes) -> None:
        from harvest_assets.loaders import load_activation_contexts_summary

        text = content.decode("utf-8", "surrogateescape")
        with contextlib.suppress(HarvestError):
            load_activation_contexts_summary(text)
        harvest = parse_harvest(text)
        name = harvest.run.name
        assert RunName.from_key(name.key) == name
        assert HarvestReference.from_key(harvest.key).key == harvest.key
        for part in (name.entity, name.project, name.run_id, harvest.default_folder):
            assert Path(part).name == part
            assert len(part.encode()) <= 200


class Address(Reader):
    """A request to the viewer: the first byte chooses the page, the rest is the query."""

    PAGES = (
        "/run/small",
        "/run/small/component/h.0.mlp.c_fc:0",
        "/compare",
        "/run/small/table.csv",
        "/run/small/export.html",
        "/run/small/version",
        "/",
        "",
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        os.environ["SPD_OUT_DIR"] = str(folder)
        if not (folder / "harvest").exists():
            write_harvest(folder / "harvest" / "small", [f"t{i}" for i in range(32)], 40, 3)
        self._app = make_app(Library(), "small")
        self._loop = asyncio.new_event_loop()

    def seeds(self) -> list[bytes]:
        queries = [
            b"\0q=mlp&token=t1&layer=h.0.mlp.c_fc&min=0.1%25&max=1e-3&dead=1&sort=density&page=2",
            b"\1reads_by=pmi&predicts_by=lift&fires_by=pmi&examples=ci&shade=act&lines=full",
            b"\2run_a=small&a=h.0.mlp.c_fc%3A0&run_b=small&b=h.1.mlp.c_fc%3A1",
            b"\3key=h.0.mlp.c_fc%3A0&key=h.0.mlp.c_fc%3A1",
            b"\4key=h.0.mlp.c_fc%3A0",
        ]
        return [*queries, b"\7/run/small/component/h.0.mlp.c_fc:0?page=9", b"\7/static/../x"]

    def read(self, content: bytes) -> None:
        page, rest = self.PAGES[content[0] % 8] if content else "/", content[1:]
        path, query = (page, rest) if page else (rest.decode("latin-1").partition("?")[0], b"")
        status, body = self._loop.run_until_complete(self._ask(path, query))
        assert status in (200, 307, 400, 404, 405), status
        if status == 200:
            assert b"root:x:0" not in body
        elif status in (400, 404):
            raise HarvestError("refused")

    async def _ask(self, path: str, query: bytes) -> tuple[int, bytes]:
        messages = []

        async def receive() -> dict:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict) -> None:
            messages.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode("utf-8", "replace"),
            "root_path": "",
            "query_string": query,
            "headers": [(b"host", b"127.0.0.1:3100")],
            "client": ("127.0.0.1", 9),
            "server": ("127.0.0.1", 3100),
        }
        await self._app(scope, receive, send)
        body = b"".join(message.get("body", b"") for message in messages)
        return messages[0]["status"], body


READERS: dict[str, type[Reader]] = {
    "config": Config,
    "model-config": ModelConfig,
    "checkpoint": CheckpointArchive,
    "checkpoint-pickle": CheckpointPickle,
    "results-pickle": Results,
    "plan": Plan,
    "run-checkpoint": RunCheckpointFile,
    "token-rows": Rows,
    "manifest": Manifest,
    "result-config": ResultConfig,
    "summary": Summary,
    "line": Line,
    "lines": Lines,
    "index": Index,
    "highest": Highest,
    "state": StateDescription,
    "state-tensors": StateTensors,
    "shard": ShardDescription,
    "pointer": Pointer,
    "lease": Lease,
    "progress": Progress,
    "registration": Registration,
    "rows": TokenRowsDescription,
    "rows-order": TokenRowsOrder,
    "rows-arrow": TokenRowsArrow,
    "tokenizer": TokenizerFile,
    "name": Name,
    "address": Address,
}
