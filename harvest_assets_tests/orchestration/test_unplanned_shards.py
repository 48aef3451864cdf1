"""Sixteen shards exist, a plan has as many as share the work: the others are not part of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from harvest_assets.definitions import defs
from harvest_assets.orchestration.backfills import submit
from harvest_assets.orchestration.harvests import HarvestStatus, harvests_of, missing_parts
from harvest_assets.orchestration.partitions import partition_key, run_shards
from harvest_assets.orchestration.slurm import jobs
from harvest_assets.orchestration.slurm.settings import SlurmSettings
from harvest_assets.runners.staged import StagedRunner, StageRun
from harvest_assets.stages import Asset
from harvest_assets.store.registry import registration_of
from harvest_assets.store.summary import summarize
from harvest_assets_tests.tiny_harvest import SETTINGS, TinyHarvest
from harvest_assets_tests.tiny_run import write_world

GRAPH = defs.resolve_asset_graph()
SHARDS = dg.AssetKey("harvest_shard")

BY_HAND = """
import json, sys
import dagster as dg
from harvest_assets.definitions import defs
from harvest_assets_tests.tiny_harvest import TinyHarvest

with dg.DagsterInstance.get() as instance:
    result = TinyHarvest(instance, sys.argv[1], None).stage("harvest", shard="07")
    (step,) = [event for event in result.all_events if event.is_step_success]
    (made,) = result.get_asset_materialization_events()
print(json.dumps({
    "milliseconds": step.step_success_data.duration_ms,
    "title": made.materialization.description,
    "torch": "torch" in sys.modules,
}))
"""


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def names(parts: list[tuple[Asset, str]]) -> set[str]:
    return {str(part) for asset, part in parts if asset is Asset.HARVEST_SHARD}


def status_of(tiny: TinyHarvest) -> HarvestStatus:
    (harvest,) = harvests_of(tiny.instance, GRAPH)
    return harvest.status


@pytest.mark.slow  # a process of its own, with an instance on disk
def test_one_launched_by_hand_ends_at_once_without_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "out"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    run = write_world(tmp_path / "world")
    with dg.DagsterInstance.get() as instance:
        tiny = TinyHarvest.of(instance, run)
        assert tiny.stage("prepare", **SETTINGS, n_shards=1).success
    before = files_of(tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", BY_HAND, tiny.key],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["title"] == "not in the plan (1 shard)"
    assert not seen["torch"]
    assert seen["milliseconds"] < 2000
    assert files_of(tmp_path / "out") == before
    assert not tiny.layout.shard("07").exists()


def test_the_plan_reports_them_and_none_counts_as_work(tiny: TinyHarvest):
    assert tiny.stage("prepare", **SETTINGS, n_shards=2).success
    reported = set(tiny.instance.get_materialized_partitions(SHARDS))
    all_ = set(run_shards.get_partition_keys(dynamic_partitions_store=tiny.instance))
    planned = {f"{tiny.key}|00", f"{tiny.key}|01"}
    assert reported == all_ - planned
    assert tiny.stage("harvest", shard="00").success
    before, size = summarize(tiny.layout).shards, files_of(tiny.layout.root)
    by_hand = tiny.stage("harvest", shard="07")
    assert by_hand.success
    (event,) = by_hand.get_asset_materialization_events()
    assert event.partition == f"{tiny.key}|07"
    assert event.materialization.metadata["share"].text == "not in the plan (2 shards)"
    assert files_of(tiny.layout.root) == size
    assert summarize(tiny.layout).shards == before
    assert [part.name for part in before] == ["00", "01"]
    assert names(missing_parts(tiny.instance, tiny.key, 16)) == {f"{tiny.key}|01"}
    assert tiny.stage("harvest", shard="01").success
    merged = tiny.stage("merge")
    assert merged.success
    assert all(it.passed for it in merged.get_asset_check_evaluations() if it.blocking)
    assert status_of(tiny) is HarvestStatus.HARVESTED


def test_on_a_cluster_it_is_no_job(tiny: TinyHarvest):
    def becomes_a_job(shard: str) -> bool:
        key = partition_key(f"{tiny.key}|{shard}")
        tags = run_shards.get_tags_for_partition_key(key)
        by_hand = dg.DagsterRun("__ASSET_JOB", asset_selection=frozenset({SHARDS}), tags=tags)
        of_the_stage = dg.DagsterRun("harvest", tags=tags)
        settings = SlurmSettings(stages="all")
        (answer,) = {jobs.becomes_a_job(run, settings) for run in (by_hand, of_the_stage)}
        return answer

    assert becomes_a_job("07")  # as long as there is no plan
    assert tiny.stage("prepare", **SETTINGS, n_shards=2).success
    assert {it for it in ("00", "01", "02", "07") if becomes_a_job(it)} == {"00", "01"}


def test_one_that_fails_does_not_fail_the_harvest(tiny: TinyHarvest):
    assert tiny.stage("prepare", **SETTINGS, n_shards=1).success
    rows = tiny.layout.token_rows.read_bytes()
    tiny.layout.token_rows.write_bytes(b"{")
    assert not tiny.stage("harvest", shard="07").success
    tiny.layout.token_rows.write_bytes(rows)
    assert status_of(tiny) is HarvestStatus.UNHARVESTED


def test_a_shard_that_a_new_plan_needs_is_missing_although_it_was_reported(tiny: TinyHarvest):
    assert tiny.stage("prepare", **SETTINGS, n_shards=1).success
    assert tiny.stage("harvest", shard="00").success
    assert names(missing_parts(tiny.instance, tiny.key, 16)) == set()
    assert tiny.stage("prepare", **SETTINGS, n_shards=3).success
    wanted = {f"{tiny.key}|{name}" for name in ("00", "01", "02")}
    assert names(missing_parts(tiny.instance, tiny.key, 16)) == wanted


class Recording(StagedRunner):
    """Executes stages in this process and records their partitions."""

    def __init__(self, tiny: TinyHarvest) -> None:
        super().__init__(tiny.instance)
        self.tiny = tiny
        self.partitions: list[str] = []

    def execute(self, _registration, stage_runs: list[StageRun], _poll) -> None:
        for it in stage_runs:
            self.partitions.append(it.partition)
            key, shard = it.partition, None
            if "|" in key:
                shard = key.rpartition("|")[2]
            plan = it.run_config.get("ops", {}).get("harvest_plan", {}).get("config", {})
            assert self.tiny.stage(it.stage.value, shard=shard, **plan).success


def test_runners_and_backfills_launch_the_shards_of_the_plan(tiny: TinyHarvest):
    backfill = tiny.instance.get_backfill(
        submit(tiny.instance, GRAPH, [tiny.key], title="it", settings={"n_shards": 2})
    )
    parts = backfill.get_asset_backfill_data(GRAPH).target_subset.iterate_asset_partitions()
    launched = {part.partition_key for part in parts if part.asset_key == SHARDS}
    assert launched == {f"{tiny.key}|00", f"{tiny.key}|01"}

    runner = Recording(tiny)
    settings = {**SETTINGS, "n_shards": 2}
    assert runner.run([registration_of(tiny.key)], settings, None, lambda _: None) == {}
    shards = [f"{tiny.key}|00", f"{tiny.key}|01"]
    assert runner.partitions == [tiny.key, *shards, tiny.key]
