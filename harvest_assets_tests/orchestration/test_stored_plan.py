"""Materializing without config, or with some of it, where a plan is stored already."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dagster as dg
import pytest
import torch

from harvest_assets.definitions import defs
from harvest_assets.orchestration.backfills import submit
from harvest_assets.orchestration.partitions import partition_key
from harvest_assets.orchestration.wandb.retrained import resumed_event
from harvest_assets.settings import HarvestSettings
from harvest_assets_tests.tiny_harvest import SETTINGS, TinyHarvest, sentence
from harvest_assets_tests.tiny_run import N_CTX

GRAPH = defs.resolve_asset_graph()
WITHOUT_CONFIG = {key.path[-1] for key in GRAPH.get_all_asset_keys()} - {
    "harvest_plan",
    "run_checkpoint",
}
BATCH_TOKENS = SETTINGS["batch_size"] * N_CTX


def plan_of(tiny: TinyHarvest) -> dict:
    return json.loads(tiny.layout.plan.read_text())


def changes_in(prepared: dg.ExecuteInProcessResult) -> str:
    (made,) = prepared.asset_materializations_for_node("harvest_plan")
    entry = made.metadata.get("changes")
    return entry.value if entry else ""


def tokens_harvested(tiny: TinyHarvest) -> int:
    (event,) = tiny.stage("harvest", shard="00").get_asset_materialization_events()
    entry = event.materialization.metadata.get("tokens")
    return entry.value if entry else 0


def test_no_config_keeps_the_plan(tiny: TinyHarvest):
    tiny.harvest(n_batches=5, seed=7)
    before, lines = plan_of(tiny), tiny.layout.components.read_bytes()
    prepared = tiny.stage("prepare")
    assert prepared.success
    assert plan_of(tiny) == before
    assert changes_in(prepared) == ""
    assert tokens_harvested(tiny) == 0
    assert tiny.stage("merge").success
    assert tiny.layout.components.read_bytes() == lines


def test_a_plan_without_a_whole_batch_is_not_stored(tiny: TinyHarvest):
    tiny.harvest(n_batches=2)
    before = plan_of(tiny)
    refused = tiny.stage("prepare", batch_size=5000)
    assert not refused.success
    assert "5000" in sentence(refused)
    assert plan_of(tiny) == before
    assert tiny.stage("prepare").success


def test_another_tokenizer_of_the_same_name_is_refused(tiny: TinyHarvest):
    tiny.harvest(n_batches=2)
    before = tiny.layout.run_checkpoint.read_bytes()
    config = json.loads(tiny.layout.config.read_text())
    file = Path(config["tokenizer_path"]) / "tokenizer.json"
    content = file.read_text()
    tokenizer = json.loads(content)
    tokenizer["model"]["vocab"]["another"] = 1 + max(tokenizer["model"]["vocab"].values())
    file.write_text(json.dumps(tokenizer))
    refused = tiny.stage("prepare")
    assert not refused.success
    assert config["tokenizer_sha256"][:12] in sentence(refused)
    assert config["tokenizer_path"] in sentence(refused)
    assert tiny.layout.run_checkpoint.read_bytes() == before
    file.write_text(content)
    assert tiny.stage("prepare").success


@pytest.mark.parametrize(
    ("given", "named", "batches"),
    [
        ({"n_batches": 6}, ("n_batches from 2 to 6", "Only 4 of 6 batches"), 4),
        ({"n_batches": 1}, ("n_batches from 2 to 1", "All batches"), 1),
        ({"n_batches": 1, "batch_size": 16}, ("batch_size from 8 to 16", "No batch"), 0),
        ({"seed": 5}, ("seed from 0 to 5", "All batches"), 2),
        ({"context_length": 8}, ("context_length from 16 to 8", "All batches"), 1),
        ({"pmi_token_top_k": 3}, ("pmi_token_top_k from 5 to 3", "No batch"), 0),
    ],
)
def test_what_is_given_changes_and_is_said(
    tiny: TinyHarvest, given: dict[str, int], named: tuple[str, str], batches: int
):
    tiny.harvest(n_batches=2)
    before = plan_of(tiny)
    prepared = tiny.stage("prepare", **given)
    assert all(part in changes_in(prepared) for part in named)
    logged = [entry.user_message for entry in tiny.instance.all_logs(prepared.run_id)]
    assert changes_in(prepared) in logged
    assert plan_of(tiny) == {**before, **given, "digest": plan_of(tiny)["digest"]}
    assert tokens_harvested(tiny) == batches * BATCH_TOKENS


def test_the_whole_dataset_can_be_asked_for_again(tiny: TinyHarvest):
    tiny.harvest(n_batches=2)
    assert "from 2 to the whole dataset" in changes_in(tiny.stage("prepare", n_batches=None))
    assert plan_of(tiny)["n_batches"] is None


def test_a_first_plan_has_the_defaults_and_changes_nothing(tiny: TinyHarvest):
    prepared = tiny.stage("prepare", n_batches=2)
    assert changes_in(prepared) == ""
    assert (plan_of(tiny)["n_batches"], plan_of(tiny)["batch_size"]) == (2, 256)


def test_a_plan_that_cannot_be_read_is_not_replaced_by_defaults(tiny: TinyHarvest):
    assert tiny.stage("prepare", **SETTINGS).success
    damaged = tiny.layout.plan.read_text().replace('"n_batches": 6', '"n_batches": 7')
    tiny.layout.plan.write_text(damaged)
    for given in ({}, {"n_batches": 3}):
        assert "plan.json" in sentence(tiny.stage("prepare", **given))
        assert tiny.layout.plan.read_text() == damaged
    assert tiny.stage("prepare", **HarvestSettings().model_dump()).success
    assert plan_of(tiny)["n_batches"] is None


@pytest.mark.usefixtures("out_dir")
def test_no_config_keeps_the_checkpoint(
    tiny_run: Path, tmp_path: Path, instance: dg.DagsterInstance
):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    weights = torch.load(run / "model_100.pth", weights_only=True)
    norm = "target_model.ln_f.weight"
    torch.save({**weights, norm: weights[norm] * 2}, run / "model_200.pth")
    tiny = TinyHarvest.of(instance, run)

    def checkpoint_after(**given) -> tuple[str, list[str]]:
        """The checkpoint's name, and what was logged of it."""
        config = {
            "run_checkpoint": {"config": given},
            "harvest_plan": {"config": {"n_batches": 2, "batch_size": 8, "n_shards": 1}},
        }
        prepared = defs.resolve_job_def("prepare").execute_in_process(
            instance=instance, partition_key=tiny.key, run_config={"ops": config}
        )
        logged = [entry.user_message for entry in instance.all_logs(prepared.run_id)]
        path = json.loads(tiny.layout.run_checkpoint.read_text())["checkpoint_path"]
        return Path(path).name, [line for line in logged if "model_" in line and "from" in line]

    assert checkpoint_after() == ("model_200.pth", [])
    name, (change,) = checkpoint_after(step=100)
    assert name == "model_100.pth"
    assert "from model_200.pth" in change
    assert checkpoint_after() == ("model_100.pth", [])
    assert checkpoint_after(step=None)[0] == "model_200.pth"
    assert checkpoint_after(step=100)[0] == "model_100.pth"
    instance.report_runless_asset_event(resumed_event(tiny.key, 200))
    assert checkpoint_after()[0] == "model_200.pth", "it was trained on"
    assert checkpoint_after(step=100)[0] == "model_100.pth"
    (run / "model_100.pth").unlink()
    assert checkpoint_after()[0] == "model_200.pth"


@pytest.mark.parametrize("asset", [*sorted(WITHOUT_CONFIG), "harvest_plan", "run_checkpoint"])
def test_config_that_nothing_reads_is_refused(tiny: TinyHarvest, asset: str):
    key = f"{tiny.key}|00" if asset == "harvest_shard" else tiny.key
    job = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection={dg.AssetKey(asset)}
    )
    with pytest.raises(dg.DagsterInvalidConfigError, match=rf'"n_batchs" at path root:ops:{asset}'):
        job.execute_in_process(
            instance=tiny.instance,
            partition_key=partition_key(key),
            run_config={"ops": {asset: {"config": {"n_batchs": 50}}}},
        )


@pytest.mark.parametrize(("stored", "shards"), [(3, 3), (None, 2)])
def test_a_backfill_keeps_stored_plans_and_gives_new_ones_their_shards(
    tiny: TinyHarvest, monkeypatch: pytest.MonkeyPatch, stored: int | None, shards: int
):
    monkeypatch.setattr("harvest_assets.orchestration.backfills.default_n_shards", lambda: 2)
    if stored:
        assert tiny.stage("prepare", **SETTINGS, n_shards=stored).success
        tiny.instance.report_runless_asset_event(resumed_event(tiny.key, 200))
    backfill = tiny.instance.get_backfill(submit(tiny.instance, GRAPH, [tiny.key], title="it"))
    assert backfill.run_config["ops"]["harvest_plan"]["config"] == (
        {} if stored else {"n_shards": shards}
    )
    parts = backfill.get_asset_backfill_data(GRAPH).target_subset.iterate_asset_partitions()
    assert len([part for part in parts if "|" in part.partition_key]) == shards
