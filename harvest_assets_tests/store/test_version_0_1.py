"""What version 0.1 wrote opens, is continued and is extended."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import dagster as dg
import pytest
import torch

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.manifest import disagreements
from harvest_assets.loaders import (
    activation_examples,
    load_activation_context_single,
    load_components_frame,
    load_correlations,
    load_token_stats,
)
from harvest_assets.store.plan import HarvestPlan
from harvest_assets_tests.tiny_harvest import TinyHarvest, sentence

ARCHIVE = Path(__file__).parent / "version_0_1" / "harvests.tar.xz"

SETTINGS = {
    "batch_size": 8,
    "activation_examples_per_component": 6,
    "activation_context_tokens_per_side": 3,
    "pmi_token_top_k": 5,
    "n_shards": 2,
}


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    for file in tmp_path.glob("spd_out/harvest/*/run_checkpoint.json"):
        file.write_text(file.read_text().replace("@ROOT@", str(tmp_path)))
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "spd_out"))
    monkeypatch.chdir(tmp_path)


def harvest_of(number: int, out_name: str | None = None) -> TinyHarvest:
    instance = dg.DagsterInstance.ephemeral()
    return TinyHarvest.of(instance, f"old/versions/s-0000000{number}", out_name)


def tokens_harvested(result: dg.ExecuteInProcessResult) -> int:
    assert result.success
    (event,) = result.get_asset_materialization_events()
    return event.materialization.metadata["tokens"].value


def same_results(one: HarvestLayout, other: HarvestLayout) -> None:
    """Counts and examples are equal; sums of floats may be rounded where other shards end."""
    assert one.component_correlations.read_bytes() == other.component_correlations.read_bytes()
    mine, theirs = (torch.load(paths.token_stats) for paths in (one, other))
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        if isinstance(value, torch.Tensor) and name != "output_counts":
            torch.testing.assert_close(value, theirs[name], rtol=1e-12, atol=0)
        elif name != "output_counts":
            assert value == theirs[name]
    torch.testing.assert_close(mine["output_counts"], theirs["output_counts"], rtol=1e-6, atol=0)
    examples = [
        [json.loads(line)["activation_examples"] for line in paths.components.open()]
        for paths in (one, other)
    ]
    assert examples[0] == examples[1]
    assert disagreements(one, deep=True) == []


def test_a_finished_harvest_opens():
    harvest = harvest_of(1)
    assert disagreements(harvest.layout, deep=True) == []
    assert load_activation_context_single("s-00000001", "model.layers.0.mlp.up_proj:0") is not None
    assert load_correlations("s-00000001").count_total == 40 * 8 * 16
    assert load_token_stats("s-00000001").n_tokens == 40 * 8 * 16
    assert load_components_frame("s-00000001").height == 33
    plan = HarvestPlan.open(harvest.layout.root)
    assert plan.n_batches == 40


def test_a_finished_harvest_is_extended():
    old = harvest_of(1)
    assert old.stage("prepare", **SETTINGS, n_batches=60).success
    parts = [tokens_harvested(old.stage("harvest", shard=shard)) for shard in ("00", "01")]
    assert sum(parts) == 20 * 8 * 16, "what was harvested before is not harvested again"
    assert old.stage("merge").success
    assert not old.layout.highest_activation_examples.exists(), "not of all rows"
    assert activation_examples("s-00000001", "model.layers.0.mlp.up_proj:0", 3, "activation")
    alone = harvest_of(1, "alone")
    alone.harvest(**SETTINGS, n_batches=60)
    assert alone.layout.highest_activation_examples.exists()
    same_results(old.layout, alone.layout)


@pytest.mark.parametrize("prepare", [True, False])
def test_an_unfinished_harvest_is_continued(prepare: bool, capfd: pytest.CaptureFixture[str]):
    old = harvest_of(2)
    if prepare:
        assert old.stage("prepare", **SETTINGS, n_batches=150).success
    finished = old.layout.shard_current("00").read_bytes()
    assert old.stage("harvest", shard="00").success
    assert old.layout.shard_current("00").read_bytes() == finished
    capfd.readouterr()
    assert old.stage("harvest", shard="01").success
    assert re.search(r"Resumed .*\b1024\b", capfd.readouterr().err)
    assert old.stage("merge").success
    alone = harvest_of(2, "alone")
    alone.harvest(**SETTINGS, n_batches=150)
    same_results(old.layout, alone.layout)


def test_streamed_rows_of_another_order_are_neither_continued_nor_merged():
    old = harvest_of(3)
    for refused in (old.stage("harvest", shard="01"), old.stage("merge")):
        assert not refused.success
        assert "stream" in sentence(refused)
        assert "materialize token_rows again" in sentence(refused)
    assert old.stage("prepare", **SETTINGS, n_batches=150).success
    for shard in ("00", "01"):
        assert old.stage("harvest", shard=shard).success
    assert old.stage("merge").success
    alone = harvest_of(3, "alone")
    alone.harvest(**SETTINGS, n_batches=150)
    same_results(old.layout, alone.layout)
