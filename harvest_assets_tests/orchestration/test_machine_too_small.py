"""A harvest that this machine cannot hold is refused with numbers before anything of it is done."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import torch
from click.testing import CliRunner

from harvest_assets.cli.dry_run import dry_run
from harvest_assets.cli.main import cli
from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.harvest_config import CHECK_MACHINE
from harvest_assets.runners.local import LocalRunner
from harvest_assets.store.registry import registration_of
from harvest_assets_tests.tiny_harvest import SETTINGS, TinyHarvest, sentence

ENDLESS = {"activation_context_tokens_per_side": 1_000_000_000}


def test_a_dry_run_counts_all_weights(tiny: TinyHarvest):
    would = dry_run(registration_of(tiny.key), SETTINGS, None)
    saved = torch.load(would.checkpoint.checkpoint_path, weights_only=True)
    distinct = {it.untyped_storage().data_ptr(): it.numel() for it in saved.values()}
    assert would.needs.weights == 4 * sum(distinct.values())
    assert would.needs.memory() > would.needs.weights + would.needs.counts


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
