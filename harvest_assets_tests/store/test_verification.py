"""A harvest on disk against itself: sound ones pass, each kind of damage is named."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from harvest_assets.cli.ages import parse_age
from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import host_name
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.manifest import record
from harvest_assets.results.components_jsonl import parse_component
from harvest_assets.store import verification
from harvest_assets.store.garbage import free, removable
from harvest_assets.store.verification import problems_of
from harvest_assets_tests.faults.small_harvest import SmallHarvest, contents


@pytest.fixture
def harvest(out_dir: Path) -> SmallHarvest:
    harvest = SmallHarvest(out_dir / "harvest" / "x-aaaaaaaa")
    harvest.run()
    return harvest


def test_a_sound_harvest_passes(harvest: SmallHarvest):
    assert problems_of(harvest.paths) == []


def test_a_flipped_bit_anywhere_is_named(harvest: SmallHarvest):
    states = [p for p in harvest.paths.merged.rglob("*") if p.is_file()]
    assert len(states) == 7
    tables = sorted(harvest.paths.activation_contexts.glob("*.parquet"))
    assert len(tables) == 4
    for file in (*harvest.paths.five_files, *tables, *states):
        good = file.read_bytes()
        for where in (0.3, 0.9):
            bad = bytearray(good)
            bad[int(where * len(bad))] ^= 1
            file.write_bytes(bad)
            assert any(file.name in problem for problem in problems_of(harvest.paths)), (
                file,
                where,
            )
        file.write_bytes(good)
        assert problems_of(harvest.paths) == []


@pytest.mark.parametrize(("line_bytes", "n_parsed"), [(1, 24), (1 << 26, 2), (1 << 30, 1)])
def test_of_long_lines_fewer_are_parsed(
    harvest: SmallHarvest, monkeypatch: pytest.MonkeyPatch, line_bytes: int, n_parsed: int
):
    """A line with a million tokens of examples takes seconds."""
    parsed = []

    def parse(path: Path, line: bytes):
        parsed.append(line)
        return parse_component(path, line)

    monkeypatch.setattr(verification, "parse_component", parse)
    n_lines = len(harvest.paths.components.read_bytes().splitlines())
    real = harvest.paths.components.stat().st_size // n_lines
    monkeypatch.setattr(
        verification, "_SAMPLED_BYTES", verification._SAMPLED_BYTES * real // line_bytes
    )
    assert problems_of(harvest.paths, deep=False) == []
    assert len(parsed) in range(min(n_parsed, n_lines), 2 * n_parsed + 1)


def resaved(paths: HarvestLayout, file: Path, change) -> list[str]:
    """The problems of a harvest whose file was changed and has a new digest in the manifest."""
    value = torch.load(file, weights_only=True)
    change(value)
    torch.save(value, file)
    record(paths, file, SmallHarvest(paths.root).plan.digest)
    problems = problems_of(paths)
    assert problems_of(paths, deep=False) == problems
    return problems


@pytest.mark.parametrize(
    ("name", "key", "named"),
    [
        ("component_correlations", "count_ij", "symmetric"),
        ("component_correlations", "count_i", "diagonal"),
        ("token_stats", "input_counts", "input_counts does not add up"),
        ("token_stats", "input_totals", "input_totals does not add up"),
        ("token_stats", "output_counts", "output_counts does not add up"),
        ("token_stats", "firing_counts", "firing_counts is not"),
    ],
)
def test_a_wrong_number_with_a_right_digest_is_named(
    harvest: SmallHarvest, name: str, key: str, named: str
):
    def change(value: dict) -> None:
        value[key].view(-1)[-2] += 1

    problems = resaved(harvest.paths, getattr(harvest.paths, name), change)
    assert any(named in problem for problem in problems), problems


def test_lines_that_the_index_does_not_name(harvest: SmallHarvest):
    paths = harvest.paths
    table = pq.read_table(paths.component_index)
    offsets = [
        None if o is None else o + (i == 5) for i, o in enumerate(table["offset"].to_pylist())
    ]
    index = table.schema.get_field_index("offset")
    moved = table.set_column(index, table.schema.field("offset"), [offsets])
    pq.write_table(moved.replace_schema_metadata(table.schema.metadata), paths.component_index)
    record(paths, paths.component_index, harvest.plan.digest)
    for deep in (True, False):
        (problem,) = problems_of(paths, deep=deep)
        assert "where its index says" in problem


def test_a_summary_of_other_numbers(harvest: SmallHarvest):
    paths = harvest.paths
    summary = json.loads(paths.summary.read_text())
    key = next(iter(summary))
    summary[key]["mean_ci"] *= 2
    paths.summary.write_text(json.dumps(summary))
    record(paths, paths.summary, harvest.plan.digest)
    for deep in (True, False):
        (problem,) = problems_of(paths, deep=deep)
        assert key in problem


def test_clean_frees_only_what_can_be_made_again(out_dir: Path):
    harvest = SmallHarvest(out_dir / "harvest" / "x-aaaaaaaa")
    harvest.run("all")
    unfinished = SmallHarvest(out_dir / "harvest" / "x-bbbbbbbb")
    unfinished.prepare()
    unfinished.shard("00")
    left = harvest.root / f".plan.json.{host_name()}-999999999-{'0' * 32}.tmp"
    ours = harvest.root / f".plan.json.{host_name()}-{os.getpid()}-{'0' * 32}.tmp"
    for path in (left, ours):
        path.write_text("half")
    rows = out_dir / "data" / ("e" * 32)
    rows.mkdir(parents=True)
    long_ago = time.time() - 7200
    os.utime(rows, (long_ago, long_ago))
    (out_dir / "data" / ("f" * 32)).mkdir()
    empty = out_dir / "harvest" / "x-cccccccc"
    (empty / "leases").mkdir(parents=True)
    for folder in (empty / "leases", empty):
        os.utime(folder, (long_ago, long_ago))
    before = contents(harvest.paths)

    assert removable(parse_age("1d")) == []
    items = removable()
    shards = {harvest.paths.shard(name) for name in ("00", "01")}
    assert {item.path for item in items} == {*shards, left, rows, empty}
    assert {item.path for item in free(items)} == {*shards, left, rows, empty}
    assert removable() == []
    assert ours.exists()
    assert contents(harvest.paths) == before
    assert problems_of(harvest.paths) == []
    assert unfinished.paths.shard_current("00").exists()
    with pytest.raises(HarvestError, match="'soon'"):
        parse_age("soon")
