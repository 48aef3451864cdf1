"""Every firing of a harvest, against loops; however the work was cut, the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.manifest import disagreements, is_intact, record
from harvest_assets.harvester import kept_firings
from harvest_assets.results.firings import KeptFirings
from harvest_assets.sharing.some_layers import some_layers
from harvest_assets.store.plan_change import change_of_plan
from harvest_assets.store.shards import SHARD_KEYS, ShardResults, StoredState
from harvest_assets.store.verification import problems_of
from harvest_assets_tests.faults.small_harvest import LAYERS, N_CTX, Rows, SmallHarvest, Table


def by_loops(n_rows: int) -> list[tuple[int, int, int, float, float]]:
    """Row, position, component and both values of each firing of the first rows."""
    table, tokens = Table(), Rows().tokens.numpy()
    ci, acts = table.ci.double().numpy(), table.acts.double().numpy()
    found = []
    for row in range(n_rows):
        for position, token in enumerate(tokens[row]):
            for component in range(ci.shape[1]):
                if ci[token, component] > 1e-6:
                    values = float(ci[token, component]), float(acts[token, component])
                    found.append((row, position, component, *values))
    return found


def as_read(paths: HarvestLayout) -> list[tuple[int, int, int, float, float]]:
    kept, found, next_row = KeptFirings.open(paths), [], 0
    for block in kept.blocks(max_firings=200):
        assert block.first_row == next_row
        assert len(block.ci) <= 200 or block.n_rows == 1
        next_row += block.n_rows
        columns = (block.row, block.position, block.component, block.ci, block.act)
        assert [c.dtype for c in columns] == [np.int64, np.int32, np.int32, np.float32, np.float32]
        found += list(zip(*(c.tolist() for c in columns), strict=True))
    assert (next_row, len(found)) == (kept.n_rows, kept.n_firings)
    assert kept.row_length == N_CTX
    for n_rows in (0, 1, kept.n_rows):
        assert sum(block.n_rows for block in kept.blocks(n_rows, max_firings=1)) == n_rows
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SmallHarvest:
    """One shard, written in one go."""
    folder = tmp_path_factory.mktemp("whole") / "x-aaaaaaaa"
    harvest = SmallHarvest(folder, n_shards=1, keep_firings=-1)
    harvest.run()
    return harvest


def test_all_firings_are_kept_in_order(whole: SmallHarvest):
    assert as_read(whole.paths) == by_loops(96)
    assert problems_of(whole.paths) == []


def test_the_file_is_as_its_format_says(whole: SmallHarvest):
    columns = load_file(whole.paths.firings)
    row = np.repeat(np.arange(96), np.diff(columns["row_offsets"]))
    firings = zip(
        row, *(columns[name] for name in ("position", "component", "ci", "act")), strict=True
    )
    assert [tuple(v.item() for v in firing) for firing in firings] == by_loops(96)


@pytest.mark.parametrize("keep", ["all", "merged", "none"])
def test_three_shards_in_many_blocks_give_the_same_bytes(
    tmp_path: Path, whole: SmallHarvest, monkeypatch: pytest.MonkeyPatch, keep: str
):
    monkeypatch.setattr(kept_firings, "_BLOCK_FIRINGS", 300)
    cut = SmallHarvest(tmp_path / "cut", n_shards=3, keep_firings=-1)
    cut.prepare()
    for name in SHARD_KEYS[:3]:
        cut.shard(name)
        assert not [p for p in cut.paths.shard(name).iterdir() if p.name.startswith(".")]
    assert len(ShardResults(cut.paths).firings(cut.plan).files) > 6
    cut.merge(keep)
    assert cut.paths.firings.read_bytes() == whole.paths.firings.read_bytes()
    assert is_intact(cut.paths, cut.plan.digest)
    assert disagreements(cut.paths, deep=True) == []
    if keep == "merged":  # the state and the result share one file
        assert cut.paths.firings.stat().st_nlink == 2


def test_stopped_twice_resumed_and_extended_none_is_missing_or_there_twice(
    tmp_path: Path, whole: SmallHarvest
):
    short = SmallHarvest(tmp_path / "cut", n_batches=5, n_shards=1, keep_firings=-1)
    short.prepare()
    for stop in (3, 2):
        seen: list[int] = []

        def interrupt(done: int, seen: list[int] = seen, stop: int = stop) -> None:
            seen.append(done)
            if len(seen) == stop:
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(KeyboardInterrupt):
            short.shard("00", interrupt)
        # As if killed later: what came after the saved state is in no state.
        orphan = short.paths.shard("00") / ".firings.elsewhere-1-{}.tmp".format("a" * 32)
        orphan.mkdir(exist_ok=True)
    short.shard("00")
    short.merge()
    assert as_read(short.paths) == by_loops(40)
    longer = SmallHarvest(tmp_path / "cut", n_shards=3, keep_firings=-1)
    longer.run()
    assert longer.paths.firings.read_bytes() == whole.paths.firings.read_bytes()
    assert StoredState.find(longer.paths.merged_current).rows == range(96)


@pytest.mark.parametrize("n_shards", [1, 3])
def test_only_the_first_rows_are_kept_where_so_asked(tmp_path: Path, n_shards: int):
    harvest = SmallHarvest(tmp_path / "h", n_shards=n_shards, keep_firings=37)
    harvest.run()
    assert as_read(harvest.paths) == by_loops(37)
    assert problems_of(harvest.paths) == []


def test_without_them_nothing_changes_and_a_sentence_says_so(tmp_path: Path, whole: SmallHarvest):
    harvest = SmallHarvest(tmp_path / "h")
    harvest.run()
    assert "keep_firings" not in json.loads(harvest.paths.plan.read_text())
    assert not harvest.paths.firings.exists()
    with pytest.raises(HarvestError, match="--keep-firings"):
        KeptFirings.open(harvest.paths)
    # Asked for later: states without firings do not count.
    later = SmallHarvest(tmp_path / "h", n_shards=1, keep_firings=-1)
    later.run()
    assert later.paths.firings.read_bytes() == whole.paths.firings.read_bytes()
    harvest.prepare()
    assert ShardResults(harvest.paths).without_result(harvest.plan) == [], "counts stay as they are"
    given_up = change_of_plan(harvest.paths, later.plan, harvest.plan, streaming=False)
    assert str(harvest.paths.firings) in given_up
    harvest.merge()
    assert not harvest.paths.firings.exists()
    assert not StoredState.find(harvest.paths.merged_current).has_firings
    assert problems_of(harvest.paths) == []


def test_fewer_rows_are_a_part_of_those_that_are_kept(tmp_path: Path, whole: SmallHarvest):
    expected = SmallHarvest(tmp_path / "expected", keep_firings=37)
    expected.run()
    folder = Path(shutil.copytree(whole.root, tmp_path / "h"))
    fewer = SmallHarvest(folder, n_shards=1, keep_firings=37)
    fewer.prepare()
    assert ShardResults(fewer.paths).without_result(fewer.plan) == []
    fewer.merge()
    assert fewer.paths.firings.read_bytes() == expected.paths.firings.read_bytes()
    assert fewer.paths.firings.stat().st_nlink == 2, "the state has the same file"
    assert problems_of(fewer.paths) == []


def test_a_disk_too_small_is_noticed_at_the_first_block(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(kept_firings, "_BLOCK_FIRINGS", 300)
    harvest = SmallHarvest(tmp_path / "h", n_shards=1, keep_firings=-1)
    harvest.prepare()
    done: list[int] = []
    monkeypatch.setattr("harvest_assets.files.free_space.free_bytes", lambda _: 10_000)
    with pytest.raises(HarvestError, match="--keep-firings"):
        harvest.shard("00", done.append)
    assert len(done) < 5


def test_firings_that_cannot_be_are_named(tmp_path: Path):
    harvest = SmallHarvest(tmp_path / "x-aaaaaaaa", n_batches=2, n_shards=1, keep_firings=-1)
    harvest.run()
    paths = harvest.paths
    good, n = paths.firings.read_bytes(), KeptFirings.open(paths).n_firings
    # The last value of each column, counted from the end of the file.
    for columns_after, size in ((0, 4), (1, 4), (2, 4), (4, 8)):
        place = len(good) - 4 * n * columns_after
        paths.firings.unlink()  # the state has the same file
        paths.firings.write_bytes(good[: place - size] + bytes(size) + good[place:])
        assert any("firings.safetensors" in problem for problem in problems_of(paths))
        record(paths, paths.firings, harvest.plan.digest)
        assert any("firings" in problem for problem in problems_of(paths)), "only by its digest"


def test_some_layers_have_their_own_firings(whole: SmallHarvest, tmp_path: Path):
    before = LAYERS[0][1]
    with some_layers(whole.paths, ["h.1.*"], lambda *_: None, tmp_path) as part:
        expected = [(*at, c - before, *v) for *at, c, ci, act in by_loops(96) for v in [(ci, act)]]
        assert as_read(part) == [firing for firing in expected if firing[2] >= 0]
        assert problems_of(part) == []
        assert not list(part.activation_contexts.glob("*.scratch"))
