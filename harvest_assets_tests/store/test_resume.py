"""Stopped and resumed, extended, damaged: the sum stays the sum."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from harvest_assets.errors import HarvestError
from harvest_assets.files.lease import LeaseHeldError, check_held, hold_lease
from harvest_assets.files.manifest import disagreements
from harvest_assets.store import resume
from harvest_assets.store.compaction import compact
from harvest_assets.store.harvest_name import HarvestReference
from harvest_assets.store.registry import Registration, claim_folder
from harvest_assets.store.shards import SHARD_KEYS, ShardResults, StoredState, Work
from harvest_assets_tests.faults.small_harvest import RUN, SmallHarvest, contents, same_sums
from harvest_assets_tests.files.sealed import change


def harvested(root: Path, **settings) -> SmallHarvest:
    harvest = SmallHarvest(root, **settings)
    harvest.run()
    return harvest


def state_of(harvest: SmallHarvest):
    total = ShardResults(harvest.paths).open(harvest.plan)
    assert total.n_states == 1
    return total.state()


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT],
)
def test_a_signal_saves_and_the_rest_is_harvested_later(tmp_path: Path, number: int):
    whole = harvested(tmp_path / "whole")
    harvest = SmallHarvest(tmp_path / "cut")
    harvest.prepare()
    seen = []

    def stop_in_the_middle(done: int) -> None:
        seen.append(done)
        if len(seen) == 5:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        harvest.shard("00", stop_in_the_middle)
    saved = StoredState.find(harvest.paths.shard_saved("00"))
    assert saved.rows == range(seen[-1])
    assert not harvest.paths.shard_current("00").exists()
    again = []
    harvest.shard("00", again.append)
    assert again[0] > seen[-1], "what was saved is not harvested again"
    harvest.shard("01")
    harvest.merge()
    assert contents(harvest.paths) == contents(whole.paths)
    assert same_sums(state_of(harvest), state_of(whole))


def test_what_is_missing_names_the_harvest(out_dir: Path):
    dense = Registration(HarvestReference.from_key(RUN).run, "dense", "dense")
    harvest = SmallHarvest(out_dir / "harvest/dense")
    harvest.prepare()
    claim_folder(dense)
    results = ShardResults(harvest.paths)
    with pytest.raises(HarvestError, match=f"00, 01 of {RUN}@dense "):
        results.find(harvest.plan)
    for shard in ("00", "01"):
        harvest.shard(shard)
    stored = StoredState.find(harvest.paths.shard_current("01"))
    (stored.directory / "shard.json").write_text("{")
    with pytest.raises(HarvestError, match=f"Shard 01 of {RUN}@dense "):
        results.find(harvest.plan)


def test_saving_takes_at_most_a_twentieth_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    harvest = SmallHarvest(tmp_path / "h", n_shards=1, saving_share=0.05)
    harvest.prepare()
    saves: list[tuple[float, float]] = []
    real = resume.commit_directory
    clock = 0.0

    def pass_time(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    def timed(*args):
        begun = clock
        real(*args)
        pass_time(0.1)
        saves.append((begun, clock))

    monkeypatch.setattr(resume, "time", SimpleNamespace(monotonic=lambda: clock))
    monkeypatch.setattr(resume, "commit_directory", timed)
    harvest.shard("00", lambda _: pass_time(0.3))
    assert len(saves) > 2
    for (begun, ended), (next_begun, _) in itertools.pairwise(saves):
        assert (ended - begun) / (next_begun - begun) < 0.05


def test_a_damaged_saved_state_is_not_used(tmp_path: Path):
    harvest = SmallHarvest(tmp_path / "h")
    harvest.prepare()
    with pytest.raises(KeyboardInterrupt):
        harvest.shard("00", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    saved = StoredState.find(harvest.paths.shard_saved("00"))
    flip_a_bit(saved.directory / "state" / "statistics.safetensors", 0.7)
    again = []
    harvest.shard("00", again.append)
    assert again[0] == 3, "from the first group on"
    harvest.shard("01")
    harvest.merge()
    assert contents(harvest.paths) == contents(harvested(tmp_path / "whole").paths)


@pytest.mark.parametrize("n_shards", [1, 3])
def test_more_batches_later_are_all_that_is_harvested(tmp_path: Path, n_shards: int):
    harvested(tmp_path / "h", n_batches=5)
    longer = SmallHarvest(tmp_path / "h", n_batches=12, n_shards=n_shards)
    longer.prepare()
    rows = [Work.of(longer.paths, longer.plan).share(name) for name in SHARD_KEYS]
    assert sorted(row for share in rows for row in share) == list(range(40, 96))
    for name in SHARD_KEYS[:n_shards]:
        longer.shard(name)
    longer.merge()
    whole = harvested(tmp_path / "whole")
    assert same_sums(state_of(longer), state_of(whole))
    assert longer.paths.components.read_bytes() == whole.paths.components.read_bytes()


def test_another_seed_is_not_added_to_an_older_harvest(tmp_path: Path):
    harvested(tmp_path / "h", seed=1)
    other = harvested(tmp_path / "h", seed=2)
    assert contents(other.paths) == contents(harvested(tmp_path / "alone", seed=2).paths)


def test_what_is_kept(tmp_path: Path):
    for keep, there in (("all", (True, True)), ("merged", (False, True)), ("none", (False, False))):
        harvest = SmallHarvest(tmp_path / keep)
        harvest.run(keep)
        shards = any(harvest.paths.shard_current(s).exists() for s in SHARD_KEYS)
        assert (shards, harvest.paths.merged_current.exists()) == there
        assert disagreements(harvest.paths, deep=True) == []


def flip_a_bit(path: Path, where: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 4
    path.write_bytes(data)


def cut_off(path: Path, where: float) -> None:
    path.write_bytes(path.read_bytes()[: int(where * path.stat().st_size)])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_off])
@pytest.mark.parametrize("where", [0.0, 0.4, 0.99])
def test_damage_is_named_and_not_summed(tmp_path: Path, damage, where: float):
    harvest = SmallHarvest(tmp_path / "h")
    harvest.prepare()
    for name in ("00", "01"):
        harvest.shard(name)
    directory = StoredState.find(harvest.paths.shard_current("01")).directory
    files = [p for p in (*directory.rglob("*"), harvest.paths.shard_current("01")) if p.is_file()]
    assert len(files) == 7
    for file in files:
        good = file.read_bytes()
        damage(file, where)
        with pytest.raises(HarvestError, match="Shard 01") as caught:
            harvest.merge()
        assert file.name in str(caught.value)
        assert not harvest.paths.component_correlations.exists()
        with pytest.raises(HarvestError, match="Shard 01"):
            compact(harvest.paths, harvest.plan, "merged")
        file.write_bytes(good)
    harvest.merge()


def test_another_format_version_is_named(tmp_path: Path):
    harvest = SmallHarvest(tmp_path / "h", n_shards=1)
    harvest.prepare()
    harvest.shard("00")
    file = StoredState.find(harvest.paths.shard_current("00")).directory / "shard.json"
    change(file, format_version=99)
    with pytest.raises(HarvestError, match=r"Shard 00.*format_version is 99"):
        harvest.merge()


def test_a_lease_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "merge.json"
    with hold_lease(path, "It"):
        check_held(path)
        with pytest.raises(LeaseHeldError, match=str(os.getpid())), hold_lease(path, "It"):
            pass
    assert list(tmp_path.iterdir()) == []


HOLDER = """
import sys, time
from pathlib import Path
from harvest_assets.files.lease import hold_lease
with hold_lease(Path(sys.argv[1]), "It"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_owner_and_what_a_dead_one_left(tmp_path: Path):
    path = tmp_path / "leases" / "merge.json"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with (
                pytest.raises(LeaseHeldError, match=f"process {holder.pid} on "),
                hold_lease(path, "The merge"),
            ):
                pass
        finally:
            holder.kill()
            holder.wait(timeout=20)
    with hold_lease(path, "The merge"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
        check_held(path)
    assert list(path.parent.iterdir()) == []


def test_a_lease_of_another_machine_lives_as_long_as_it_is_renewed(tmp_path: Path):
    path = tmp_path / "merge.json"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "5", "token": "t"}))
    with pytest.raises(LeaseHeldError, match="process 1 on elsewhere"), hold_lease(path, "It"):
        pass
    long_ago = time.time() - 3600
    os.utime(path, (long_ago, long_ago))
    with hold_lease(path, "It"):
        path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "taken over"}))
        with pytest.raises(HarvestError, match="taken over"):
            check_held(path)
    assert "taken over" in path.read_text(), "the other one's lease stays"
