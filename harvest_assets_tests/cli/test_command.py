"""The command as people run it: a process, its exit status, what it prints, what it leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from harvest_assets.cli.main import cli
from harvest_assets_tests.tiny_run import write_world

OPTIONS = ["--n_batches", "6", "--batch-size", "8", "--activation_examples_per_component", "9"]


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing of ours has been run before."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HARVEST_", "DAGSTER_"))}
    return {**kept, "HOME": str(tmp_path), "SPD_OUT_DIR": str(tmp_path / "out")}


def command(*arguments: str, env: dict[str, str], cwd: Path | None = None):
    return subprocess.run(
        [sys.executable, "-m", "harvest_assets", *arguments],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def refused(result: subprocess.CompletedProcess, *named: str) -> None:
    """One sentence on stderr that names what is wrong, and no traceback."""
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for name in named:
        assert name in errors[0]


@pytest.mark.slow
def test_a_run_is_harvested_and_harvested_again(
    home: dict[str, str], tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home |= {"HARVEST_BATCH_SIZE": "4", "HARVEST_SEED": "7"}
    first = command(str(tiny_run), *OPTIONS, "--n_shards", "2", env=home)
    assert first.returncode == 0, first.stderr
    (folder,) = (tmp_path / "out" / "harvest").iterdir()
    five = ["config.json", "summary.json", "components.jsonl"]
    files = [folder / "activation_contexts" / name for name in five]
    files += [
        folder / "correlations" / f"{n}.pt" for n in ("component_correlations", "token_stats")
    ]
    for file in files:
        assert file.stat().st_size
        assert file.name in first.stdout
    assert str(folder) in first.stdout
    assert "harvesting" in first.stderr
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]

    stored = json.loads(files[0].read_text())
    # A deployment's defaults count where the command line is silent.
    assert (stored["n_batches"], stored["batch_size"], stored["seed"]) == (6, 8, 7)

    lines = files[2].read_bytes()
    again = command(str(tiny_run), *OPTIONS, "--n_shards", "1", env=home)
    assert again.returncode == 0, again.stderr
    assert files[2].read_bytes() == lines
    assert "The plan changes" not in first.stderr
    assert "n_shards from 2 to 1. No batch" in again.stderr

    monkeypatch.setenv("SPD_OUT_DIR", home["SPD_OUT_DIR"])
    sound = CliRunner().invoke(cli, ["verify", str(tiny_run)])
    assert sound.exit_code == 0, sound.stderr
    assert "everything agrees" in sound.stdout
    files[2].write_bytes(lines[:-2] + b" \n")
    refused(command("verify", str(tiny_run), env=home), "components.jsonl")
    cleaned = CliRunner().invoke(cli, ["clean", "--dry-run"])
    assert cleaned.exit_code == 0, cleaned.stderr
    assert "0 bytes would be freed" in cleaned.stdout

    dagster_home = tmp_path / ".local/share/harvest_assets/dagster"
    assert "enabled: false" in (dagster_home / "dagster.yaml").read_text()
    monkeypatch.setenv("DAGSTER_HOME", str(dagster_home))
    with dg.DagsterInstance.get() as instance:
        assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.SUCCESS}
        assert sorted(run.job_name for run in instance.get_runs()) == sorted(
            ["prepare", "harvest", "harvest", "merge", "prepare", "merge"]
        )
        shards = instance.get_materialized_partitions(dg.AssetKey("harvest_shard"))
        assert len(shards) == 16


def test_a_default_of_a_deployment_that_is_not_valid_is_refused(
    home: dict[str, str], tiny_run: Path
):
    refused(command(str(tiny_run), env={**home, "HARVEST_SEED": "x"}), "HARVEST_SEED", "'x'")


@pytest.mark.parametrize(
    ("run", "named"),
    [
        ("no-such-run", "no-such-run"),
        ("a/b/c/d/e", "a/b/c/d/e"),
        ("./nowhere", "nowhere"),
        ("a,b/spd/aaaaaaaa", "a,b"),
    ],
)
def test_a_run_that_is_none_is_refused(home: dict[str, str], run: str, named: str, tmp_path: Path):
    refused(command(run, env=home, cwd=tmp_path), named)
    assert not list((tmp_path / "out").rglob("components.jsonl"))


def test_settings_out_of_range_are_refused(home: dict[str, str], tiny_run: Path):
    refused(command(str(tiny_run), "--batch_size", "0", env=home), "batch_size is 0")
    typo = command(str(tiny_run), "--n_batchs", "3", env=home)
    assert typo.returncode == 2
    assert "--n-batches" in typo.stderr


@pytest.mark.slow
def test_a_nan_stops_the_shard_and_harms_nothing(
    home: dict[str, str], tiny_run: Path, tmp_path: Path
):
    import torch

    good = command(str(tiny_run), *OPTIONS, env=home)
    assert good.returncode == 0, good.stderr
    (lines,) = (tmp_path / "out" / "harvest").glob("*/activation_contexts/components.jsonl")
    before = lines.read_bytes()
    checkpoint = tiny_run / "model_100.pth"
    kept = checkpoint.read_bytes()
    try:
        state = torch.load(checkpoint, weights_only=True)
        state["_ci_fns.h-0-mlp-up_proj.layers.2.b"][3] = float("nan")
        checkpoint.unlink()
        torch.save(state, checkpoint)
        refused(command(str(tiny_run), *OPTIONS, env=home), "Batches 0 to 5", "importance")
    finally:
        checkpoint.unlink()
        checkpoint.write_bytes(kept)
    assert lines.read_bytes() == before


@pytest.mark.slow
def test_the_folder_of_another_run_is_refused(home: dict[str, str], tiny_run: Path, tmp_path: Path):
    runs = tmp_path / "out" / "runs"
    for project in ("one", "two"):
        shutil.copytree(tiny_run, runs / f"{project}-aaaaaaaa")
    assert command("local/one/aaaaaaaa", *OPTIONS, env=home).returncode == 0
    refused(command("local/two/aaaaaaaa", *OPTIONS, env=home), "local/one/aaaaaaaa", "--out_name")
    named = command("local/two/aaaaaaaa", *OPTIONS, "--out_name", "second", env=home)
    assert named.returncode == 0, named.stderr
    assert (tmp_path / "out/harvest/second/activation_contexts/components.jsonl").exists()
    refused(command("local/two/aaaaaaaa", "--out_name", "../x", env=home), "../x")


@pytest.mark.slow
def test_register_prints_commands_that_work(home: dict[str, str], tiny_run: Path, tmp_path: Path):
    registered = command("register", str(tiny_run), env=home)
    assert registered.returncode == 0, registered.stderr
    text = registered.stdout.replace("\\\n", " ")
    script = [line.partition("#")[0] for line in text.splitlines() if line.startswith("  ")]
    assert len([line for line in script if "dagster asset materialize" in line]) == 3
    settings = (
        " --config-json '"
        + json.dumps(
            {"ops": {"harvest_plan": {"config": {"n_batches": 2, "batch_size": 4, "n_shards": 1}}}}
        )
        + "'"
    )
    lines = [
        line + settings if "harvest_plan" in line else line for line in script if "ops" not in line
    ]
    # Once more without settings: the plan stays.
    first = next(line for line in script if "harvest_plan" in line)
    plan = '"$SPD_OUT_DIR"/harvest/*/plan.json'
    lines += [f"cp {plan} before.json", first, f"cmp {plan} before.json"]
    path = f"{Path(sys.executable).parent}:{home['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", "\n".join(lines)],
        env={**home, "PATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert list((tmp_path / "out" / "harvest").glob("*/activation_contexts/components.jsonl"))


@pytest.mark.parametrize("arguments", [[], ["harvest"], ["register"], ["ui"]])
def test_help_teaches(home: dict[str, str], arguments: list[str]):
    result = command(*arguments, "--help", env=home)
    assert result.returncode == 0
    assert "harvest-assets" in result.stdout
    assert "Usage" in result.stdout


def test_spd_harvest_says_where(home: dict[str, str], tmp_path: Path):
    script = Path(sys.executable).with_name("spd-harvest")
    result = subprocess.run(
        [script, "local/spd/aaaaaaaa"],
        env=home,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "on this machine" in result.stderr
    refused(result, "local/spd/aaaaaaaa")
