"""A harvest that this machine cannot hold is refused with numbers before anything of it is done."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from harvest_assets.cli.dry_run import dry_run
from harvest_assets.cli.dry_run_text import print_dry_run
from harvest_assets.cli.main import cli
from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.harvest_config import CHECK_MACHINE
from harvest_assets.runners.local import LocalRunner
from harvest_assets.store.plan import HarvestPlan
from harvest_assets.store.plan_change import shares_left
from harvest_assets.store.registry import registration_of
from harvest_assets_tests.tiny_harvest import SETTINGS, TinyHarvest, sentence

ENDLESS = {"activation_context_tokens_per_side": 1_000_000_000}


def test_a_dry_run_counts_all_weights(tiny: TinyHarvest):
    would = dry_run(registration_of(tiny.key), SETTINGS, None, "here")
    saved = torch.load(would.checkpoint.checkpoint_path, weights_only=True)
    distinct = {it.untyped_storage().data_ptr(): it.numel() for it in saved.values()}
    assert would.needs.weights == 4 * sum(distinct.values())
    assert would.needs.memory() > would.needs.weights + would.needs.counts
    assert would.memory_without_gpu == would.needs.memory() or torch.cuda.is_available()
    shown = io.StringIO()
    print_dry_run(replace(would, memory_without_gpu=123_456_000_000), Console(file=shown))
    assert "123.5 GB without a GPU" in shown.getvalue()


def test_a_dry_run_refuses_with_numbers_and_writes_nothing(tiny_run: Path, out_dir: Path):
    options = [f"--{name}={value}" for name, value in ENDLESS.items()]
    before = sorted(out_dir.rglob("*"))
    result = CliRunner().invoke(cli, [str(tiny_run), "--dry-run", *options])
    assert result.exit_code == 1
    assert "examples" in result.stderr
    assert "--activation_context_tokens_per_side" in result.stderr
    assert sorted(out_dir.rglob("*")) == before


def test_a_plan_that_does_not_fit_is_refused_before_rows_are_prepared(tiny: TinyHarvest):
    refused = tiny.stage("prepare", **{**SETTINGS, **ENDLESS, CHECK_MACHINE: True})
    assert not refused.success
    assert "B free" in sentence(refused)
    assert "--activation_context_tokens_per_side" in sentence(refused)
    assert not tiny.layout.token_rows.exists()
    assert not tiny.layout.plan.exists()
    assert tiny.stage("prepare", **{**SETTINGS, CHECK_MACHINE: True}).success


def test_a_refused_plan_leaves_a_harvest_as_it_was(tiny: TinyHarvest):
    tiny.harvest()
    before = {path: path.read_bytes() for path in tiny.layout.root.iterdir() if path.is_file()}
    assert not tiny.stage("prepare", **{**SETTINGS, **ENDLESS, CHECK_MACHINE: True}).success
    assert {path: path.read_bytes() for path in before} == before


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose memory is in use."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))


@pytest.mark.usefixtures("out_dir", "no_memory")
def test_a_dry_run_refuses_only_what_would_run_here(tiny_run: Path):
    options = [str(tiny_run), "--dry-run", "--batch_size", "8", "--n_batches", "2"]
    here = CliRunner().invoke(cli, options)
    assert here.exit_code == 1
    assert "of memory" in here.stderr
    on_cluster = CliRunner().invoke(cli, [*options, "--slurm"])
    assert on_cluster.exit_code == 0, on_cluster.stderr
    assert "1.0 kB are free" in on_cluster.stdout


def test_only_rows_that_are_left_need_memory(tiny: TinyHarvest, request: pytest.FixtureRequest):
    tiny.harvest()
    request.getfixturevalue("no_memory")
    for given in ({"pmi_token_top_k": 3}, {"n_shards": 2}, {"batch_size": 16, "n_batches": 3}):
        settings = {**SETTINGS, "n_shards": 1, **given}
        dry_run(registration_of(tiny.key), settings, None, "here")
        assert tiny.stage("prepare", **settings, **{CHECK_MACHINE: True}).success
    plan = HarvestPlan.open(tiny.layout.root)
    extended = plan.model_copy(update={"n_batches": 4, "n_shards": 4})
    assert shares_left(tiny.layout, plan, extended, None, streaming=False) == [16]
    assert shares_left(tiny.layout, plan, extended, None, streaming=True) == [64] * 4
    for given in ({"n_batches": 7}, {"seed": 1}):
        settings = {**SETTINGS, "n_shards": 1, **given}
        assert "of memory" in sentence(tiny.stage("prepare", **settings, **{CHECK_MACHINE: True}))
        with pytest.raises(HarvestError, match="of memory"):
            dry_run(registration_of(tiny.key), settings, None, "here")


def test_the_command_checks_the_machine_that_it_harvests_on(
    tiny: TinyHarvest, instance: dg.DagsterInstance
):
    class Prepared(LocalRunner):
        def execute(self, _registration, stage_runs, _poll) -> None:
            asked.extend(it.run_config["ops"]["harvest_plan"]["config"] for it in stage_runs)
            raise HarvestError("enough")

    asked: list[dict] = []
    Prepared(instance).run([registration_of(tiny.key)], SETTINGS, None, lambda _: None)
    assert [config[CHECK_MACHINE] for config in asked] == [True]
