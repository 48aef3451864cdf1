"""`list`, `status`, `unregister`: what is on disk and registered, for people and scripts."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from harvest_assets.cli.main import cli
from harvest_assets.files.layout import registration_path
from harvest_assets.files.lease import hold_lease
from harvest_assets.loaders import activation_examples, load_activation_contexts_summary
from harvest_assets.orchestration.instance import add_run
from harvest_assets.orchestration.partitions import RUN_DIMENSION
from harvest_assets.store.registry import registration_of
from harvest_assets.viewer.library import Library
from harvest_assets_tests.tiny_harvest import SETTINGS, TinyHarvest
from harvest_assets_tests.tiny_run import N_CTX, write_world

TOKENS = SETTINGS["n_batches"] * SETTINGS["batch_size"] * N_CTX


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def as_json(*arguments: str):
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyHarvest:
    """A registered run, and an instance that the commands find too."""
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "out"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster/dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.get() as instance:
        yield TinyHarvest.of(instance, write_world(tmp_path / "world"))


def test_nothing_is_an_answer_too(tiny: TinyHarvest):
    root = tiny.layout.root.parent
    (root / "x-empty" / "leases").mkdir(parents=True)
    assert as_json("list") == []
    shown = invoke("list")
    assert shown.exit_code == 0
    assert "no harvests" in shown.output
    assert invoke("status", tiny.key).exit_code == 1
    (root / "x-empty/shards").symlink_to(root.parent)
    assert [it["name"] for it in as_json("list")] == ["x-empty"]


def test_a_harvest_that_was_ended_at_once_says_so(tiny: TinyHarvest):
    root = tiny.layout.root.with_name(f"{tiny.layout.root.name}@dense")
    (root / "logs").mkdir(parents=True)
    (root / "logs/prepare.log").write_text("interrupted")
    found = as_json("status", f"{tiny.key}@dense")
    assert found["condition"] == "unfinished"
    assert f"{root} has no plan" in found["problem"]
    assert found["problem"] in invoke("status", f"{tiny.key}@dense").output
    with hold_lease(root / "leases/harvest.json", "the harvest"):
        assert as_json("status", f"{tiny.key}@dense")["problem"] == ""
    (root / "run_checkpoint.json").write_text("{}")  # the run is opened: it is being prepared
    assert as_json("status", root.name)["problem"] == ""


def test_a_harvest_is_followed_from_its_plan_to_its_end(tiny: TinyHarvest):
    assert tiny.stage("prepare", **SETTINGS, n_shards=2).success
    assert tiny.stage("harvest", shard="00").success
    (found,) = as_json("list")
    assert found == {key: v for key, v in as_json("status", tiny.key).items() if key != "jobs"}
    assert (found["run"], found["condition"]) == (tiny.key, "unfinished")
    assert (found["tokens"], found["tokens_wanted"]) == (TOKENS // 2, TOKENS)
    rows = SETTINGS["n_batches"] * SETTINGS["batch_size"]
    assert found["shards"] == [
        {"name": "00", "rows": rows // 2, "rows_wanted": rows // 2},
        {"name": "01", "rows": 0, "rows_wanted": rows // 2},
    ]
    assert found["settings"].items() >= SETTINGS.items()
    assert found["path"] == str(tiny.layout.root)
    assert f"{TOKENS // 2:,} of {TOKENS:,}" in invoke("list").output

    with hold_lease(tiny.layout.shard_lease("01"), "a shard"):
        assert as_json("status", tiny.key)["condition"] == "in progress"

    assert tiny.stage("harvest", shard="01").success
    assert tiny.stage("merge").success
    (done,) = as_json("list")
    files = [file for file in tiny.layout.root.rglob("*") if file.is_file()]
    assert (done["condition"], done["tokens"]) == ("harvested", TOKENS)
    assert done["n_bytes"] == sum(file.stat().st_blocks * 512 for file in files)
    lines = tiny.layout.components.read_text().splitlines()
    assert done["n_components"] >= len(lines) > 0
    assert done["shards"] == []
    shutil.rmtree(tiny.layout.merged)  # as with HARVEST_KEEP=none
    assert as_json("status", tiny.key)["tokens"] == TOKENS
    text = invoke("status", tiny.layout.root.name).output
    assert str(tiny.layout.root) in text
    assert "harvested" in text


def test_a_harvest_is_read_and_verified_without_its_run(tiny: TinyHarvest, tmp_path: Path):
    tiny.harvest()
    shutil.rmtree(tmp_path / "world")
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "out").rename(elsewhere)
    os.environ["SPD_OUT_DIR"] = str(elsewhere)  # restored by the fixture
    name = tiny.layout.root.name
    assert invoke("verify", name).exit_code == 0
    key = next(iter(load_activation_contexts_summary(name)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert activation_examples(name, key, 3)
    harvest = Library().get(name)
    assert harvest.warnings == []
    (elsewhere / "harvest" / name / "tokenizer/tokenizer.json").unlink()
    damaged = invoke("verify", name)
    assert damaged.exit_code == 1
    assert "tokenizer" in damaged.output


def test_results_of_an_older_plan_are_not_the_harvest(tiny: TinyHarvest):
    tiny.harvest()
    assert tiny.stage("prepare", **{**SETTINGS, "n_batches": 7}).success
    (found,) = as_json("list")
    assert found["condition"] == "unfinished"
    assert found["tokens"] < found["tokens_wanted"]
    verified = invoke("verify", tiny.key)
    assert verified.exit_code == 0, "the files agree"
    assert f"n_batches from {SETTINGS['n_batches']} to 7" in verified.stderr
    assert tiny.stage("prepare", **SETTINGS, n_shards=2).success
    assert as_json("verify", tiny.key)["older_plan"] is None, "of other shards, the same results"


def test_damage_is_named_and_hides_no_other(tiny: TinyHarvest):
    tiny.harvest()
    broken = tiny.layout.root.parent / "broken"
    broken.mkdir()
    (broken / "plan.json").write_text("{")
    found = {it["name"]: it for it in as_json("list")}
    assert found["broken"]["condition"] == "damaged"
    assert "plan.json" in found["broken"]["problem"]
    assert found[tiny.layout.root.name]["condition"] == "harvested"
    shown = invoke("list")
    assert shown.exit_code == 0
    assert "plan.json" in shown.output


def test_a_run_is_unregistered_and_its_files_stay(tiny: TinyHarvest):
    assert tiny.stage("prepare", **SETTINGS).success
    before = sorted(tiny.layout.root.rglob("*"))
    with hold_lease(tiny.layout.harvest_lease, "a harvest"):
        refused = invoke("unregister", tiny.key)
        assert refused.exit_code == 1
        assert tiny.key in refused.output
    done = invoke("unregister", tiny.key)
    assert done.exit_code == 0, done.output
    assert str(tiny.layout.root) in done.output
    assert tiny.instance.get_dynamic_partitions(RUN_DIMENSION) == []
    assert [it for it in sorted(tiny.layout.root.rglob("*")) if it in before] == before
    again = invoke("unregister", tiny.key)
    assert again.exit_code == 1
    assert "not registered" in again.output


def test_whatever_became_a_partition_can_be_unregistered(tiny: TinyHarvest):
    mistyped = ["mistyped", "a/b/c@d/e", "a,b"]
    tiny.instance.add_dynamic_partitions(RUN_DIMENSION, mistyped)
    registration = registration_path(tiny.key)
    written = json.loads(registration.read_text())
    later = registration.with_name("x-99999999.json")
    later.write_text(json.dumps(written | {"format_version": 99}))
    mistyped.append(tiny.key.replace(registration.stem, later.stem))
    tiny.instance.add_dynamic_partitions(RUN_DIMENSION, mistyped[-1:])
    registration.write_text("{")
    assert invoke("unregister", "mistypd").exit_code == 1
    lone = registration.with_name("s-eeeeeeee.json")
    lone.write_text("{")
    named = tiny.key.replace(registration.stem, lone.stem)
    assert invoke("unregister", named).exit_code == 0
    assert not lone.exists()
    assert "not registered" in invoke("unregister", named).output
    done = invoke("unregister", *mistyped, tiny.key)
    assert done.exit_code == 0, done.output
    assert tiny.instance.get_dynamic_partitions(RUN_DIMENSION) == []
    assert not registration.exists()
    assert f"{registration} was damaged" in done.output
    assert later.exists(), "of a later version"
    assert add_run(tiny.instance, tiny.key), "others of a project are registered after it"


def test_a_finished_harvest_that_was_unregistered_is_registered_by_harvesting(
    tiny: TinyHarvest, tmp_path: Path
):
    tiny.harvest(n_shards=1)
    options = [f"--{name}={value}" for name, value in SETTINGS.items()]
    command = [str(tmp_path / "world/tiny_run"), *options, "--n_shards=1"]
    before = invoke(*command).output
    assert "already harvested" in before
    assert "registered" not in before
    assert invoke("unregister", tiny.key).exit_code == 0
    files = {it: it.stat().st_mtime_ns for it in tiny.layout.five_files}
    again = invoke(*command)
    assert again.exit_code == 0, again.output
    assert f"{tiny.key} is registered again" in again.output
    assert tiny.instance.get_dynamic_partitions(RUN_DIMENSION) == [tiny.key]
    assert {it: it.stat().st_mtime_ns for it in tiny.layout.five_files} == files
    assert "registered" not in invoke(*command).output

    assert invoke("unregister", tiny.key).exit_code == 0
    registration_path(tiny.key).unlink()
    assert as_json(*command)["registered"] == [{"key": tiny.key}]
    assert registration_of(tiny.key).reference.path == tmp_path / "world/tiny_run"
    tiny.layout.unregistered.touch()  # by a machine that shares the folder, not the instance
    assert "registered" not in as_json(*command)
    assert not tiny.layout.unregistered.exists()


@pytest.mark.parametrize("run", ["local/nowhere/bbbbbbbb", "./nowhere", "local/nowhere/s-12345678"])
def test_what_cannot_be_opened_is_not_registered(tiny: TinyHarvest, run: str):
    refused = invoke("register", run)
    assert refused.exit_code == 1
    assert tiny.instance.get_dynamic_partitions(RUN_DIMENSION) == [tiny.key]
