"""Shards compacted into one state: what is kept, what is shared, and what is never removed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from harvest_assets.errors import HarvestError
from harvest_assets.store.compaction import compact
from harvest_assets.store.shards import StoredState
from harvest_assets.store.verification import problems_of
from harvest_assets_tests.faults.small_harvest import SmallHarvest


@pytest.mark.parametrize("keep", ["merged", "none"])
def test_shards_stay_where_a_published_file_has_changed(out_dir: Path, keep: str):
    harvest = SmallHarvest(out_dir / "harvest" / "x-aaaaaaaa")
    harvest.run("all")
    paths, shards = harvest.paths, [harvest.paths.shard_current(name) for name in ("00", "01")]
    paths.merged_current.unlink()
    files = [*paths.five_files, *paths.activation_contexts.glob("*.parquet")]
    assert len(files) == 9
    for file in files:
        good = file.read_bytes()
        file.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
        with pytest.raises(HarvestError, match=re.escape(file.name)):
            compact(paths, harvest.plan, keep)
        assert all(shard.exists() for shard in shards)
        file.write_bytes(good)
    compact(paths, harvest.plan, keep)
    assert not any(shard.exists() for shard in shards)


@pytest.mark.parametrize("links", [True, False])
def test_a_single_shard_becomes_the_merged_state_without_being_rewritten(
    out_dir: Path, monkeypatch: pytest.MonkeyPatch, links: bool
):
    if not links:

        def refuse(_self: Path, _target: Path) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    harvest = SmallHarvest(out_dir / "harvest" / "x-aaaaaaaa", n_shards=1)
    harvest.prepare()
    harvest.shard("00")
    shard = StoredState.find(harvest.paths.shard_current("00"))
    assert shard is not None
    before = shard.open()
    files = {file.name: file.stat().st_ino for file in (shard.directory / "state").iterdir()}
    harvest.merge()

    merged = StoredState.find(harvest.paths.merged_current)
    assert merged is not None
    assert (merged.rows, merged.plan_digest) == (shard.rows, shard.plan_digest)
    assert not harvest.paths.shard("00").exists()
    kept = {file.name: file.stat().st_ino for file in (merged.directory / "state").iterdir()}
    assert set(kept) == set(files)
    assert (kept == files) is links
    after = merged.open()
    assert torch.equal(after.count_ij, before.count_ij)
    assert after.sample.located() == before.sample.located()
    assert problems_of(harvest.paths) == []
    # What is left can be extended.
    more = SmallHarvest(harvest.root, n_batches=12, n_shards=2)
    more.merge()
    assert problems_of(harvest.paths) == []
