"""A disk and a Dagster instance of version 0.1 go on with this version."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner, Result
from starlette.testclient import TestClient

from harvest_assets.cli.main import cli
from harvest_assets.definitions import defs
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.manifest import disagreements
from harvest_assets.loaders import activation_examples, load_components_frame
from harvest_assets.orchestration.orphaned_runs import end_dead_runs
from harvest_assets.orchestration.partitions import RUN_DIMENSION, shard_partition
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets_tests.tiny_harvest import TinyHarvest
from harvest_assets_tests.upgrade.old_disk import INTERRUPTED_SETTINGS, SETTINGS, unpack

FINISHED, INTERRUPTED, REGISTERED = (f"old/versions/s-0000000{number}" for number in (1, 2, 3))
COMPONENT = "model.layers.0.mlp.up_proj:0"


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The disk. The tests continue each other's work, in the order of this file."""
    root = tmp_path_factory.mktemp("version_0_1").resolve()
    unpack(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(root / "spd_out"))
        patch.setenv("DAGSTER_HOME", str(root / "dagster"))
        patch.chdir(root)
        yield root


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.get() as instance:
        yield instance


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def as_json(*arguments: str):
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def results(paths: HarvestLayout) -> dict[str, bytes]:
    """The files without `config.json`, which names the harvest.

    The examples of highest importance are chosen in another way since version 0.1.
    """
    left_out = {paths.config, paths.highest_ci_examples, paths.highest_activation_examples}
    folders = (paths.components.parent, paths.token_stats.parent)
    files = {file for folder in folders for file in folder.iterdir()} - left_out
    return {file.name: file.read_bytes() for file in files}


def test_commands_and_pages_show_what_is_there():
    finished, interrupted = as_json("list")
    assert (finished["run"], finished["condition"]) == (FINISHED, "harvested")
    assert (interrupted["run"], interrupted["condition"]) == (INTERRUPTED, "unfinished")
    assert 0 < interrupted["tokens"] < interrupted["tokens_wanted"] == 2_200 * 8
    assert invoke("status", INTERRUPTED).exit_code == 0
    assert invoke("verify", FINISHED).exit_code == 0
    refused = invoke("verify", INTERRUPTED)
    assert refused.exit_code == 1
    assert "Error: " in refused.output
    assert load_components_frame(FINISHED).height == 33
    assert activation_examples(FINISHED, COMPONENT, 3, "activation")
    with TestClient(make_app(Library(), None), base_url="http://127.0.0.1") as client:
        for page in (
            "/",
            "/run/s-00000001",
            "/run/s-00000002",
            f"/run/s-00000001/component/{COMPONENT}",
        ):
            assert client.get(page).status_code == 200, page


def test_its_dagster_instance_opens(instance: dg.DagsterInstance):
    assert set(instance.get_dynamic_partitions(RUN_DIMENSION)) == {
        FINISHED,
        INTERRUPTED,
        REGISTERED,
    }
    made = {
        name: instance.get_materialized_partitions(dg.AssetKey(name))
        for name in ("harvest_plan", "harvest_shard", "activation_contexts")
    }
    shards = {shard_partition(FINISHED, shard) for shard in ("00", "01")}
    assert made["harvest_plan"] == {FINISHED, INTERRUPTED}
    assert made["harvest_shard"] >= shards
    assert made["activation_contexts"] == {FINISHED}
    assert invoke("backfill", "--dry-run").exit_code == 0


@pytest.mark.slow
def test_a_harvest_that_was_killed_is_continued(
    instance: dg.DagsterInstance, capfd: pytest.CaptureFixture[str]
):
    killed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
    assert instance.get_runs(killed)
    end_dead_runs(instance)
    assert not instance.get_runs(killed)
    old = TinyHarvest.of(instance, INTERRUPTED)
    for shard in ("00", "01"):
        assert old.stage("harvest", shard=shard).success
    assert "Resumed" in capfd.readouterr().err
    assert old.stage("merge").success
    assert disagreements(old.layout, deep=True) == []
    alone = TinyHarvest.of(instance, INTERRUPTED, name="alone")
    alone.harvest(**{**INTERRUPTED_SETTINGS, "seed": 0})
    mine, theirs = results(old.layout), results(alone.layout)
    assert len(mine) >= 6
    assert mine.keys() == theirs.keys()
    assert {name for name in mine if mine[name] != theirs[name]} == set()
    assert INTERRUPTED in instance.get_materialized_partitions(dg.AssetKey("activation_contexts"))


@pytest.mark.slow
def test_a_finished_harvest_is_packed_and_extended(instance: dg.DagsterInstance, root: Path):
    packed = root / "one.tar.zst"
    assert invoke("pack", FINISHED, str(packed)).exit_code == 0
    assert invoke("unpack", str(packed), "--out-name", "again").exit_code == 0
    assert results(HarvestLayout.of("again")) == results(HarvestLayout.of("s-00000001"))
    old = TinyHarvest.of(instance, FINISHED)
    assert old.stage("prepare", **SETTINGS, n_batches=50, batch_size=8).success
    for shard in ("00", "01"):
        done = old.stage("harvest", shard=shard)
        (event,) = done.get_asset_materialization_events()
        assert event.materialization.metadata["tokens"].value == 5 * 8 * 16
    assert old.stage("merge").success
    assert invoke("verify", FINISHED).exit_code == 0


@pytest.mark.slow
def test_what_is_not_needed_is_removed(instance: dg.DagsterInstance):
    assert invoke("clean").exit_code == 0
    assert {it["condition"] for it in as_json("list")} == {"harvested"}
    for run in ("s-00000001", "s-00000002"):
        verified = invoke("verify", run)
        assert verified.exit_code == 0, verified.output
    assert invoke("unregister", FINISHED, REGISTERED).exit_code == 0
    left = instance.get_dynamic_partitions(RUN_DIMENSION)
    assert not {FINISHED, REGISTERED} & set(left)
    assert INTERRUPTED in left
    assert defs.resolve_asset_graph() is not None
