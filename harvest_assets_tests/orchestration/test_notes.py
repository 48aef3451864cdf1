"""What a run's config leaves open is said once, and kept with the results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner

from harvest_assets.cli.main import cli
from harvest_assets_tests.tiny_harvest import SETTINGS, TinyHarvest
from harvest_assets_tests.tiny_run import write_world

KEY = "shuffle_each_epoch"


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """A run whose config is older than the key."""
    run = write_world(tmp_path / "world", n_texts=60)
    path = run / "final_config.yaml"
    config = yaml.safe_load(path.read_text())
    del config["task_config"][KEY]
    path.write_text(yaml.safe_dump(config))
    return run


def _warnings(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    entries = instance.all_logs(run_id)
    return [entry.user_message for entry in entries if entry.level >= 30 and KEY in entry.message]


@pytest.mark.usefixtures("out_dir")
def test_the_graph_notes_a_config_without_the_key(instance: dg.DagsterInstance, old_run: Path):
    tiny = TinyHarvest.of(instance, old_run)
    prepared = tiny.stage("prepare", **SETTINGS, n_shards=1)
    (warning,) = _warnings(instance, prepared.run_id)
    (plan,) = prepared.asset_materializations_for_node("harvest_plan")
    assert plan.metadata["notes"].value == warning
    harvested = tiny.stage("harvest", shard="00")
    merged = tiny.stage("merge")
    for result in (harvested, merged):
        assert result.success
        assert not _warnings(instance, result.run_id)
    assert json.loads(tiny.layout.config.read_text())["notes"] == [warning]


def test_nothing_is_noted_of_a_config_with_the_key(tiny: TinyHarvest):
    tiny.harvest()
    assert "notes" not in json.loads(tiny.layout.config.read_text())


@pytest.mark.usefixtures("out_dir")
def test_a_dry_run_warns_once(old_run: Path):
    result = CliRunner().invoke(cli, [str(old_run), "--batch_size", "4", "--dry-run"])
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if KEY in line]
    assert line.startswith("warning")


@pytest.mark.slow
def test_the_command_warns_once(old_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "out"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    command = [sys.executable, "-m", "harvest_assets", str(old_run), "--batch_size", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if KEY in line]
    assert line.startswith("Warning: ")
