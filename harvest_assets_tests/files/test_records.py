"""Small JSON files: what 0.1 wrote is read and continued; what is damaged is refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harvest_assets.data import stored_dataset
from harvest_assets.data.token_rows import TokenRows, write_manifest, write_tokens
from harvest_assets.decompositions.spd.run_checkpoint import RunCheckpoint
from harvest_assets.errors import HarvestError
from harvest_assets.files.commit import commit_directory, committed_directory
from harvest_assets.files.layout import HarvestLayout, watched_path
from harvest_assets.files.lease import hold_lease, holder_of, is_held
from harvest_assets.files.manifest import Entry, read, record
from harvest_assets.files.records import FileDigest, Record, sha256_of
from harvest_assets.harvester import HarvesterState
from harvest_assets.orchestration.progress import ProgressWriter, read_progress
from harvest_assets.orchestration.wandb import watch
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.registry import (
    Registration,
    check_name,
    claim_folder,
    owner_of,
    register,
    registration_of,
)
from harvest_assets.store.shards import StoredState
from harvest_assets.store.shared_rows import SharedTokenRows
from harvest_assets.wandb_client.run_name import RunName, RunReference
from harvest_assets_tests.faults.small_harvest import RUN, SmallHarvest, contents
from harvest_assets_tests.files.sealed import sealed

OLDER = Path(__file__).parent / "written_by_0_1"
PLAN_DIGEST = "8043990ed258ff3244d7afa789f24f3894a38babff2816011407327ed55aaef2"
NAME = RunName.from_key(RUN)


@pytest.fixture
def older(out_dir: Path) -> HarvestLayout:
    """An unfinished harvest of version 0.1."""
    shutil.copytree(OLDER, out_dir)
    paths = HarvestLayout.of("x-aaaaaaaa")
    os.utime(paths.merge_lease, (0, 0))  # its owner is long gone
    return paths


def test_a_harvest_of_0_1_is_continued(older: HarvestLayout, tmp_path: Path):
    harvest = SmallHarvest(older.root, n_shards=2)
    finished = committed_directory(older.shard_current("00"))
    saved = StoredState.find(older.shard_saved("01"))
    assert harvest.plan == HarvestPlan.open(older.root)
    assert harvest.plan.digest == PLAN_DIGEST
    assert saved is not None
    assert saved.rows == range(48, 69)
    steps: list[int] = []
    harvest.shard("00", steps.append)
    assert steps == []
    assert committed_directory(older.shard_current("00")) == finished
    harvest.shard("01", steps.append)
    assert min(steps) > len(saved.rows)
    harvest.merge()
    at_once = SmallHarvest(tmp_path / "other", n_shards=2)
    at_once.run()
    assert contents(older) == contents(at_once.paths)


def test_other_files_of_0_1_are_read(older: HarvestLayout, out_dir: Path):
    checkpoint = RunCheckpoint.open(older.root)
    assert (checkpoint.run, checkpoint.step, checkpoint.tokenizer_path) == (RUN, 7, None)
    assert checkpoint.layers == (("h.0.mlp", 14), ("h.1.attn", 10))
    assert SharedTokenRows.open(older.root) == SharedTokenRows("f" * 32, 96, 16)
    rows = TokenRows.open(out_dir / "data" / ("f" * 32))
    assert rows.rows(0, 1).tolist() == [[20, 21, 22, 23]]
    reference = RunReference(NAME, Path("/runs"))
    assert registration_of(RUN) == Registration(reference, "x-aaaaaaaa")
    assert set(read(older)) == {"activation_contexts/config.json"}
    assert {entry.plan for entry in read(older).values()} == {PLAN_DIGEST}
    progress = read_progress(older.shard_progress("01"))
    assert (progress.rows_done, progress.rows, progress.tokens_per_row) == (48, 48, 16)
    memory = watch._read_memory("ent/proj")
    assert memory["s-00000001"].found == "registered"
    assert memory["s-00000000"].tries == 2


def test_a_lease_of_0_1_counts_until_it_is_stale(older: HarvestLayout):
    path = older.merge_lease
    path.touch()
    assert holder_of(path).host == "node7"
    assert is_held(path)
    with pytest.raises(HarvestError, match="node7"), hold_lease(path, "The merge"):
        pass
    os.utime(path, (0, 0))
    with hold_lease(path, "The merge"):
        assert holder_of(path).pid == os.getpid()


def test_sizes_without_a_version_are_read(tmp_path: Path):
    (tmp_path / "a.arrow").write_bytes(b"12345")
    (tmp_path / "sizes.json").write_text('{"a.arrow": 5}')
    assert stored_dataset._is_whole(tmp_path)
    (tmp_path / "sizes.json").write_text('{"a.arrow": 6}')
    assert not stored_dataset._is_whole(tmp_path)


# Every kind of file: a function that writes one into SPD_OUT_DIR, and one that reads it.

Kind = tuple[Path, Callable[[], Any]]


def _plan(root: Path) -> Kind:
    SmallHarvest(root).plan.write(root)
    return root / "plan.json", lambda: HarvestPlan.open(root)


def _checkpoint(root: Path) -> Kind:
    layers = (("h", 3),)
    RunCheckpoint(RUN, "/c", "/m", None, "0" * 64, layers, 9, None, 8, "t", 9).write(root)
    return root / "run_checkpoint.json", lambda: RunCheckpoint.open(root)


def _token_rows(root: Path) -> Kind:
    SharedTokenRows("f" * 32, 96, 16).write(root)
    return root / "token_rows.json", lambda: SharedTokenRows.open(root)


def _rows(root: Path) -> Kind:
    tokens = np.arange(24).reshape(6, 4)
    write_manifest(root, [write_tokens(root, [tokens], 4, None)], None, 4, {"dataset_name": "a"})
    return root / "rows.json", lambda: TokenRows.open(root).rows(0, 6).tolist()


def _registration(root: Path) -> Kind:
    register(RunReference(NAME, Path("/runs")), "mine")
    path = root.parents[1] / "registered" / "local" / "faults" / "x-aaaaaaaa.json"
    return path, lambda: registration_of(RUN)


def _harvest_name(root: Path) -> Kind:
    dense = Registration(RunReference(NAME, None), root.name, "dense")
    claim_folder(dense)
    check_name(dense.layout, RUN)
    return root / "harvest_name.json", lambda: owner_of(dense.layout) == f"{RUN}@dense"


def _pointer(root: Path) -> Kind:
    commit_directory(root / "current.json", SmallHarvest(root).plan)
    return root / "current.json", lambda: committed_directory(root / "current.json")


def _state(root: Path) -> Kind:
    SmallHarvest(root, n_batches=1, n_shards=1).run("all")
    path = StoredState.find(HarvestLayout(root).shard_current("00")).directory / "state"
    return path / "state.json", lambda: HarvesterState.load(path).total_tokens_processed


def _shard(root: Path) -> Kind:
    path, _ = _state(root)
    return path.parents[1] / "shard.json", lambda: StoredState.find(
        HarvestLayout(root).shard_current("00")
    )


def _manifest(root: Path) -> Kind:
    paths = HarvestLayout(root)
    paths.config.parent.mkdir()
    paths.config.write_text("{}")
    record(paths, paths.config, "p")
    return paths.manifest, lambda: read(paths)


def _progress(root: Path) -> Kind:
    ProgressWriter(root / "progress.json", 8, 16, lambda _: None)(8)
    return root / "progress.json", lambda: read_progress(root / "progress.json")


def _lease(root: Path) -> Kind:
    path = root / "leases" / "merge.json"
    with hold_lease(path, "It"):
        content = path.read_bytes()
    path.write_bytes(content)
    return path, lambda: holder_of(path)


def _watched(_root: Path) -> Kind:
    path = watched_path("ent", "proj")
    watch._RECORD.write(path, watch._Memory({"s-00000000": watch._Remembered("", "x")}))
    return path, lambda: watch._read_memory("ent/proj")


def _sizes(root: Path) -> Kind:
    (root / "a.arrow").write_bytes(b"12345")
    stored_dataset._RECORD.write(root / "sizes.json", stored_dataset._Sizes({"a.arrow": 5}))
    return root / "sizes.json", lambda: stored_dataset._is_whole(root)


KINDS = (
    *(_plan, _checkpoint, _token_rows, _rows, _registration, _pointer, _state, _shard),
    *(_manifest, _progress, _lease, _watched, _sizes, _harvest_name),
)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__[1:])
def kind(request: pytest.FixtureRequest, out_dir: Path) -> Kind:
    root = out_dir / "harvest" / "x-aaaaaaaa"
    root.mkdir(parents=True)
    return request.param(root)


def _is_refused(path: Path, read: Callable[[], Any], content: bytes) -> bool:
    path.write_bytes(content)
    return _refuses(path, read)


def _refuses(path: Path, read: Callable[[], Any]) -> bool:
    """Whether a reader finds nothing, or names the file in its error."""
    try:
        return not read()
    except HarvestError as error:
        return str(path) in str(error)


def test_what_is_written_is_read_and_has_a_digest(kind: Kind):
    path, read = kind
    written = json.loads(path.read_bytes())
    assert read()
    if path.name == "plan.json":
        assert written["digest"] == HarvestPlan.open(path.parent).digest
    else:
        assert written == sealed(written)


def _is_equal(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def test_no_flipped_bit_is_believed(kind: Kind):
    path, read = kind
    good = path.read_bytes()
    for place in range(len(good)):
        flipped = good[:place] + bytes([good[place] ^ 1 << place % 7]) + good[place + 1 :]
        if not _is_equal(flipped, good):  # 1E-06 is 1e-06
            assert _is_refused(path, read, flipped), flipped
    path.write_bytes(good)
    assert read()


def test_other_damage_is_refused(kind: Kind):
    path, read = kind
    written = json.loads(path.read_bytes())
    (version_key,) = (key for key in written if key.endswith("_version"))
    fields = [key for key in written if key not in (version_key, "digest")]
    older = {key: part for key, part in written.items() if key != "digest"}
    damaged = [
        path.read_bytes()[:-9],
        path.read_bytes().replace(b'"digest"', b'"digset"'),
        json.dumps(older).encode(),
        b"",
        b"[]",
        b"[" * 10**5,
        b'{"a":' * 10**5,
        b" " * (65 << 20),
        json.dumps({**written, fields[0]: float("nan")}).encode(),
        *(
            json.dumps(sealed({**written, version_key: version})).encode()
            for version in (99, -1, "1", True, None, [1])
        ),
        *(json.dumps(sealed({**written, field: [[{}]]})).encode() for field in fields),
    ]
    for content in damaged:
        assert _is_refused(path, read, content), content[:200]
    path.unlink()
    path.mkdir()
    assert _refuses(path, read)


@dataclass(frozen=True)
class _Pair:
    left: int
    files: dict[str, FileDigest]


def test_unknown_keys_are_refused_at_every_depth(tmp_path: Path):
    path, pairs = tmp_path / "pair.json", Record(_Pair, "a pair")
    pairs.write(path, _Pair(1, {"a": FileDigest(2, "c")}))
    written = json.loads(path.read_bytes())
    assert pairs.read(path) == _Pair(1, {"a": FileDigest(2, "c")})
    deeper = {"files": {"a": {"size": 2, "sha256": "c", "more": 1}}}
    for change in ({"more": 1}, deeper):
        path.write_text(json.dumps(sealed({**written, **change})))
        with pytest.raises(HarvestError, match="more"):
            pairs.read(path)
        lenient = Record(_Pair, "a pair", ignore_unknown=True)
        assert lenient.read(path) == _Pair(1, {"a": FileDigest(2, "c")})


def test_a_manifest_may_gain_keys(out_dir: Path):
    paths = HarvestLayout(out_dir)
    paths.root.mkdir(parents=True)
    entry = {"size": 2, "sha256": "c", "plan": "p", "more": 1}
    content = sealed({"format_version": 1, "files": {"a": entry}, "more": 2})
    paths.manifest.write_text(json.dumps(content))
    assert read(paths) == {"a": Entry(2, "c", "p")}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_that_is_cut_off_while_it_is_read_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "file"
    content = b"1" * 5_000_000
    for is_hole_last in (False, True):
        file.write_bytes(content)
        if is_hole_last:
            os.truncate(file, 9_000_000)

        def cut_off(*where: int, seek: Callable[..., int] = os.lseek) -> int:
            place = seek(*where)
            if where[2] == os.SEEK_HOLE:
                os.truncate(file, 3_000_000)
            return place

        with monkeypatch.context() as patch:
            patch.setattr(os, "lseek", cut_off)
            assert sha256_of(file) == sha256(content[:3_000_000])


def test_the_file_that_was_opened_is_digested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file, newer = tmp_path / "file", tmp_path / "newer"
    file.write_bytes(b"old")
    newer.write_bytes(b"new, and longer")

    def replaced(path: Path, *args: Any, opened: Callable[..., Any] = Path.open, **kwargs: Any):
        stream = opened(path, *args, **kwargs)
        newer.replace(file)
        return stream

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", replaced)
        assert sha256_of(file) == sha256(b"old")
    assert sha256_of(file) == sha256(b"new, and longer")


def test_what_has_no_size_is_read_to_its_end(tmp_path: Path):
    pipe, empty = tmp_path / "pipe", tmp_path / "empty"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as writer:
        writer.submit(pipe.write_bytes, b"sent")
        assert sha256_of(pipe) == sha256(b"sent")
    empty.touch()
    assert sha256_of(empty) == sha256(b"")
    version = Path("/proc/version")
    assert sha256_of(version) == sha256(version.read_bytes())
