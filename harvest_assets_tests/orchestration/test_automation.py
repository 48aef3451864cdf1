"""What is started by itself: the conditions are evaluated, and what they ask for is executed."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

import dagster as dg
import pytest

from harvest_assets.definitions import defs
from harvest_assets.files.lease import hold_lease
from harvest_assets.orchestration.backfills import submit
from harvest_assets.orchestration.conditions import harvest_automation
from harvest_assets.orchestration.dagster_private import BulkActionStatus
from harvest_assets.orchestration.harvests import HarvestStatus, harvests_of, unharvested
from harvest_assets.orchestration.instance import add_run
from harvest_assets.orchestration.partitions import registration, run_of, run_shards
from harvest_assets.orchestration.wandb.retrained import newer_step, resumed_event
from harvest_assets_tests.tiny_harvest import TinyHarvest

GRAPH = defs.resolve_asset_graph()
REPOSITORY = defs.get_repository_def()
PREPARE = {"run_checkpoint", "harvest_plan", "token_rows"}
MERGE = {"component_correlations", "token_stats", "activation_contexts", "merged_state"}
SETTINGS = {"n_batches": 4, "batch_size": 8, "n_shards": 2}
Requests = dict[str, set[str]]


class Daemon:
    """Evaluates the conditions, as the daemon does, and executes what is requested."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor = None

    def ask(self) -> Requests:
        """The assets that are requested, by partition."""
        with dg.build_sensor_context(
            self.instance, cursor=self.cursor, repository_def=REPOSITORY
        ) as context:
            tick = harvest_automation.evaluate_tick(context)
        self.cursor = tick.cursor
        requested: Requests = defaultdict(set)
        for request in tick.run_requests:
            assets = {asset.to_user_string() for asset in request.asset_selection}
            requested[request.partition_key] |= assets
        return dict(requested)

    def execute(self, requested: Requests) -> None:
        job = defs.resolve_implicit_global_asset_job_def()
        for partition, assets in requested.items():
            key = partition
            if "|" in partition:
                key = run_shards.get_partition_key_from_str(partition)
            part = job.get_subset(asset_selection={dg.AssetKey(asset) for asset in assets})
            part.execute_in_process(
                instance=self.instance,
                partition_key=key,
                run_config={"ops": {"harvest_plan": {"config": SETTINGS}}},
                raise_on_error=False,
            )

    def step(self) -> Requests:
        requested = self.ask()
        self.execute(requested)
        return requested


@pytest.fixture
def daemon(instance: dg.DagsterInstance) -> Daemon:
    return Daemon(instance)


def statuses(instance: dg.DagsterInstance) -> dict[str, HarvestStatus]:
    return {it.key: it.status for it in harvests_of(instance, GRAPH)}


def some_runs(tiny_run: Path, out_dir: Path, instance: dg.DagsterInstance, n: int) -> list[str]:
    """The tiny run several times in the run cache, registered in order."""
    keys = [f"local/tiny/s-0000000{i}" for i in range(n)]
    for key in keys:
        shutil.copytree(tiny_run, out_dir / "runs" / f"tiny-{key.rpartition('/')[2]}")
        add_run(instance, key)
    return keys


def test_a_registered_run_is_harvested_to_its_end(tiny: TinyHarvest, daemon: Daemon):
    assert unharvested(daemon.instance, GRAPH) == [tiny.key]
    assert daemon.step() == {tiny.key: PREPARE}
    assert daemon.step() == {f"{tiny.key}|{n}": {"harvest_shard"} for n in ("00", "01")}
    assert daemon.step() == {tiny.key: MERGE}
    assert tiny.layout.components.exists()
    assert daemon.step() == {}
    assert statuses(daemon.instance) == {tiny.key: HarvestStatus.HARVESTED}
    assert unharvested(daemon.instance, GRAPH, include_changed=True) == []


def test_only_first_harvests_are_made(tiny: TinyHarvest, tiny_run: Path, daemon: Daemon):
    dense = TinyHarvest.of(daemon.instance, tiny_run, name="dense")
    assert dense.key == f"{tiny.key}@dense"
    assert unharvested(daemon.instance, GRAPH) == [tiny.key]
    assert statuses(daemon.instance)[dense.key] == HarvestStatus.BY_NAME
    assert dense.stage("prepare", **SETTINGS).success, "asked for by name"
    assert {run_of(key) for _ in range(3) for key in daemon.step()} == {tiny.key}
    assert daemon.step() == {}
    for shard in ("00", "01"):
        assert dense.stage("harvest", shard=shard).success
    assert daemon.step() == {}
    assert dense.stage("merge").success
    assert set(statuses(daemon.instance).values()) == {HarvestStatus.HARVESTED}

    daemon.instance.report_runless_asset_event(resumed_event(tiny.key, 100))
    assert set(statuses(daemon.instance).values()) == {HarvestStatus.CHANGED}
    assert newer_step(daemon.instance, dense.key) == 100
    assert unharvested(daemon.instance, GRAPH, include_changed=True) == [tiny.key]
    assert daemon.step() == {}
    assert tiny.stage("prepare", **SETTINGS).success
    assert statuses(daemon.instance)[dense.key] == HarvestStatus.CHANGED
    assert dense.stage("prepare", **SETTINGS).success
    assert set(statuses(daemon.instance).values()) == {HarvestStatus.HARVESTED}


def test_what_a_backfill_may_take_up_again_is_left_to_it(tiny: TinyHarvest, daemon: Daemon):
    """The run of an input failed and is tried again: the backfill then goes on after it."""
    instance = daemon.instance
    assert tiny.stage("prepare", **SETTINGS).success
    submit(instance, GRAPH, [tiny.key], title="all of it")
    (backfill,) = instance.get_backfills()
    given_up = backfill.get_asset_backfill_data(GRAPH)
    given_up = given_up.with_failed_and_downstream_subset(given_up.target_subset)
    instance.update_backfill(backfill.with_asset_backfill_data(given_up, instance, GRAPH))
    assert daemon.step() == {}
    ended = instance.get_backfill(backfill.backfill_id)
    instance.update_backfill(ended.with_status(BulkActionStatus.COMPLETED_FAILED))
    assert daemon.step() == {f"{tiny.key}|{n}": {"harvest_shard"} for n in ("00", "01")}


def test_a_daemon_that_was_away_goes_on(tiny: TinyHarvest, daemon: Daemon):
    for _ in range(4):
        daemon.cursor = None  # nothing is remembered
        daemon.step()
    assert tiny.layout.merged_current.exists()
    daemon.cursor = None
    assert daemon.step() == {}


def test_a_shard_that_is_made_again_is_merged_again(
    tiny: TinyHarvest, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HARVEST_KEEP", "all")
    for _ in range(3):
        daemon.step()
    assert tiny.stage("harvest", shard="01").success
    assert daemon.step() == {tiny.key: MERGE}
    assert daemon.step() == {}


def test_shards_that_a_new_plan_needs_are_made_before_the_merge(tiny: TinyHarvest, daemon: Daemon):
    assert tiny.stage("prepare", **{**SETTINGS, "n_shards": 1}).success
    assert tiny.stage("harvest", shard="07").success  # by hand, beyond the plan
    assert daemon.step() == {f"{tiny.key}|00": {"harvest_shard"}}
    assert tiny.stage("prepare", **{**SETTINGS, "n_shards": 3}).success
    wanted = {f"{tiny.key}|{n}": {"harvest_shard"} for n in ("00", "01", "02")}
    assert daemon.step() == wanted
    assert daemon.ask() == {tiny.key: MERGE}


def test_another_plan_is_left_to_people(tiny: TinyHarvest, daemon: Daemon):
    for _ in range(3):
        daemon.step()
    assert tiny.stage("prepare", **SETTINGS).success
    assert statuses(daemon.instance)[tiny.key] == HarvestStatus.HARVESTED, "the plan is the same"
    assert daemon.step() == {}
    assert tiny.stage("prepare", **{**SETTINGS, "n_batches": 5}).success
    assert daemon.step() == {}
    assert statuses(daemon.instance)[tiny.key] == HarvestStatus.CHANGED
    assert unharvested(daemon.instance, GRAPH) == []
    assert unharvested(daemon.instance, GRAPH, include_changed=True) == [tiny.key]


def test_a_run_that_was_trained_on_shows_as_changed(
    tiny_run: Path, out_dir: Path, instance: dg.DagsterInstance, daemon: Daemon
):
    (key,) = some_runs(tiny_run, out_dir, instance, 1)
    for _ in range(3):
        daemon.step()
    assert statuses(instance)[key] == HarvestStatus.HARVESTED
    instance.report_runless_asset_event(resumed_event(key, 200))
    assert statuses(instance)[key] == HarvestStatus.CHANGED
    assert daemon.step() == {}
    cache = out_dir / "runs/tiny-s-00000000"
    shutil.copy(cache / "model_100.pth", cache / "model_200.pth")
    daemon.execute({key: PREPARE})
    assert "model_200.pth" in registration(key).layout.run_checkpoint.read_text()


def test_what_failed_stays_until_somebody_mends_it(
    tiny_run: Path, out_dir: Path, instance: dg.DagsterInstance, daemon: Daemon
):
    broken, sound = some_runs(tiny_run, out_dir, instance, 2)
    weights = out_dir / "runs/tiny-s-00000000/model_100.pth"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:1000])
    assert daemon.step() == {broken: PREPARE, sound: PREPARE}
    for _ in range(4):
        assert broken not in daemon.step()
    assert statuses(instance) == {broken: HarvestStatus.FAILED, sound: HarvestStatus.HARVESTED}
    assert unharvested(instance, GRAPH, include_changed=True) == []
    weights.write_bytes(kept)
    daemon.execute({broken: {"run_checkpoint"}})
    assert statuses(instance)[broken] == HarvestStatus.FAILED, "the plan was skipped then"
    assert daemon.step() == {broken: {"harvest_plan", "token_rows"}}
    assert set(daemon.step()) == {f"{broken}|00", f"{broken}|01"}
    assert daemon.step() == {broken: MERGE}


def test_so_many_harvests_at_a_time(
    tiny_run: Path,
    out_dir: Path,
    instance: dg.DagsterInstance,
    daemon: Daemon,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("HARVEST_MAX_ACTIVE_RUNS", "2")
    keys = some_runs(tiny_run, out_dir, instance, 5)
    assert set(daemon.step()) == set(keys[:2])
    begun = {partition.partition("|")[0] for partition in daemon.ask()}
    assert begun == set(keys[:2])
    monkeypatch.setenv("HARVEST_MAX_ACTIVE_RUNS", "3")
    daemon.cursor = None
    assert keys[2] in daemon.ask()


def test_what_another_process_works_on_is_let_alone(tiny: TinyHarvest, daemon: Daemon):
    with hold_lease(tiny.layout.harvest_lease, "It"):
        assert daemon.ask() == {}
        assert statuses(daemon.instance)[tiny.key] == HarvestStatus.IN_PROGRESS
    daemon.step()
    with hold_lease(tiny.layout.shard_lease("00"), "It"):
        assert daemon.step() == {f"{tiny.key}|01": {"harvest_shard"}}
    assert daemon.step() == {f"{tiny.key}|00": {"harvest_shard"}}
    with hold_lease(tiny.layout.merge_lease, "It"):
        assert daemon.step() == {}
    assert daemon.step() == {tiny.key: MERGE}
