"""The commands as scripts use them: JSON on stdout, silence, devices, exit statuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import dagster as dg
import pytest
from click.testing import CliRunner, Result

from harvest_assets.cli.main import cli
from harvest_assets.cli.spd_harvest import spd_harvest_command
from harvest_assets.files.sanitize import presentable
from harvest_assets.store.time_estimate import merge_seconds_of
from harvest_assets_tests.tiny_harvest import SETTINGS, TinyHarvest
from harvest_assets_tests.tiny_run import write_world

COMMANDS = cli.list_commands(click.Context(cli))
WITHOUT_JSON = {"ui", "view", "completion"}
OPTIONS = [f"--{name}={value}" for name, value in SETTINGS.items()]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyHarvest]:
    """A finished harvest that the commands find."""
    place = tmp_path_factory.mktemp("scripting")
    (place / "dagster").mkdir()
    (place / "dagster/dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(place / "out"))
        patch.setenv("DAGSTER_HOME", str(place / "dagster"))
        patch.delenv("HARVEST_DEVICE", raising=False)
        with dg.DagsterInstance.get() as instance:
            made = TinyHarvest.of(instance, write_world(place / "world"))
            made.harvest()
            yield made


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


def value_of(*arguments: object):
    """What a command prints with --json, which must be all of its stdout."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_common_options(name: str):
    command = cli.get_command(click.Context(cli), name)
    commands = command.commands.values() if isinstance(command, click.Group) else [command]
    for each in commands:
        options = [option for it in each.params for option in it.opts]
        assert len(options) == len(set(options))
        assert {"--quiet", "--verbose", "--debug"} <= set(options)
        assert ("--json" in options) is (name not in WITHOUT_JSON)
        assert each.epilog
        assert "130" in each.epilog


def test_what_reads_a_harvest_prints_one_json_value(tiny: TinyHarvest, tmp_path: Path):
    name, path = tiny.layout.root.name, str(tiny.layout.root)
    verified = value_of("verify", name)
    assert verified == {"harvest": name, "path": path, "problems": [], "older_plan": None}
    packed = value_of("pack", name, tmp_path / "x.tar.zst")
    assert packed["n_bytes"] == (tmp_path / "x.tar.zst").stat().st_size
    there = value_of("unpack", tmp_path / "x.tar.zst")
    assert there == {"harvest": name, "path": path, "was_there": True}
    copied = value_of("unpack", tmp_path / "x.tar.zst", "--out-name", "copy")
    assert copied["was_there"] is False
    assert Path(copied["path"]).is_dir()
    assert value_of("clean", "--dry-run") == {"dry_run": True, "removed": []}


def test_what_registers_prints_one_json_value(tiny: TinyHarvest):
    removed = value_of("unregister", tiny.key)
    assert removed == {"unregistered": [{"key": tiny.key, "path": str(tiny.layout.root)}]}
    added = value_of("register", tiny.key)
    assert added == {"registered": [{"key": tiny.key}], "skipped": []}
    listed = value_of("backfill", "--dry-run")
    assert listed["runs"].keys() == {tiny.key}


def test_a_finished_harvest_is_one_json_value(tiny: TinyHarvest):
    # The fixture's harvest has one shard, which is the default where there is no GPU.
    printed = value_of("harvest", tiny.key, *OPTIONS, "--n_shards", 1)
    (found,) = printed["harvests"]
    assert (found["run"], found["path"]) == (tiny.key, str(tiny.layout.root))
    assert found["seconds"] is None
    assert found["files"] == {
        str(file.relative_to(tiny.layout.root)): file.stat().st_size
        for file in tiny.layout.five_files
    }


def test_a_dry_run_is_one_json_value(tiny: TinyHarvest):
    options = [*OPTIONS, "--seed", "8"]
    printed = value_of("harvest", tiny.key, *options, "--dry-run", "--device", "cpu")
    (found,) = printed["dry_runs"]
    assert found["run"] == tiny.key
    assert found["settings"].items() >= {**SETTINGS, "seed": 8}.items()
    assert found["device"] == f"{os.cpu_count()} CPU cores"
    seconds = found["seconds"]
    stages = [seconds[stage] for stage in ("start", "prepare", "harvest", "merge")]
    assert all(it > 0 for it in stages)
    assert seconds["total"] == pytest.approx(sum(stages))
    low, high = found["seconds_between"]
    assert low < seconds["total"] < high
    assert found["tokens_per_second"] > 0


def test_a_dry_run_says_that_nothing_would_be_done(tiny: TinyHarvest):
    arguments = ["harvest", tiny.key, *OPTIONS, "--n_shards", 1, "--dry-run"]
    (found,) = value_of(*arguments)["dry_runs"]
    assert (found["key"], found["path"]) == (tiny.key, str(tiny.layout.root))
    assert found["seconds"].keys() > {"total"}
    assert set(found["seconds"].values()) == {0}
    shown = invoke(*arguments)
    assert tiny.key in shown.stdout
    assert "already harvested" in shown.stdout


def test_a_failure_is_json_too(tiny: TinyHarvest):
    failed = invoke("status", "no-such-harvest", "--json")
    assert failed.exit_code == 1
    error = json.loads(failed.stdout)["error"]
    assert "no-such-harvest" in error
    assert f"Error: {presentable(error)}" in failed.stderr
    lines = tiny.layout.components
    kept = lines.read_bytes()
    lines.write_bytes(kept[:-2] + b" \n")
    try:
        damaged = invoke("verify", tiny.layout.root.name, "--json")
    finally:
        lines.write_bytes(kept)
    assert damaged.exit_code == 1
    found = json.loads(damaged.stdout)
    assert found["problems"]
    assert found["harvest"] == tiny.layout.root.name
    assert lines.name in found["error"]


def test_an_interruption_is_json_too_and_keeps_what_finished(
    tiny: TinyHarvest, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(_where: str) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("harvest_assets.cli.spd_harvest.require_place", interrupt)
    options = [*OPTIONS, "--n_shards", "1", "--local", "--json"]
    arguments = [tiny.key, f"{tiny.key}@other", *options]
    stopped = CliRunner().invoke(spd_harvest_command, arguments)
    assert stopped.exit_code == 143
    printed = json.loads(stopped.stdout)
    assert printed["error"] == "interrupted"
    assert [it["key"] for it in printed["harvests"]] == [tiny.key]
    assert "continues" in stopped.stderr


def test_quiet_prints_nothing_but_errors(tiny: TinyHarvest):
    name = tiny.layout.root.name
    sound = invoke("verify", name, "--quiet")
    assert (sound.exit_code, sound.output) == (0, "")
    both = invoke("verify", name, "--quiet", "--json")
    assert json.loads(both.stdout)["problems"] == []
    assert both.stderr == ""
    failed = invoke("verify", "no-such-harvest", "--quiet")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr.startswith("Error: ")
    assert "no-such-harvest" in failed.stderr
    wrong = invoke("verify", "--quiet", "--nonsense")
    assert wrong.exit_code == 2
    assert "--nonsense" in wrong.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "x", "--quiet", "--verbose"],
        ["local/spd/s-aaaa1111", "--device", "gpu"],
        ["local/spd/s-aaaa1111", "--device", "cuda:"],
        ["local/spd/s-aaaa1111", "--step", "-1"],
        ["pull", "hf://datasets/a/b", "--out-name", "../x"],
        ["ui", "--port", "70000"],
        ["status"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("out_dir")
def test_wrong_usage_is_status_2(arguments: list[str]):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr


@pytest.mark.usefixtures("out_dir")
def test_a_wrong_device_is_said_of_the_option():
    error = invoke("local/spd/s-aaaa1111", "--device", "gpu").stderr
    assert "--device" in error
    assert "'gpu'" in error
    assert "cuda:N" in error
    assert "HARVEST_DEVICE" not in error


@pytest.mark.parametrize("dry_run", [["--dry-run"], []], ids=["dry run", "harvest"])
@pytest.mark.parametrize("command", [cli, spd_harvest_command], ids=["harvest", "spd-harvest"])
def test_a_device_that_is_not_there_is_refused_with_what_is_there(
    tiny: TinyHarvest, command: click.Command, dry_run: list[str]
):
    arguments = [tiny.key, "--device", "cuda:77", "--local", *dry_run]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 1
    assert "cuda:77" in result.stderr
    assert "cpu" in result.stderr.partition("cuda:77")[2]
    assert "HARVEST_DEVICE" not in os.environ  # the option is that of one command


def test_jobs_are_not_given_a_gpu_by_its_number(tiny: TinyHarvest):
    arguments = [tiny.key, "--device", "cuda:1", "--slurm", "--seed", "8"]
    result = CliRunner().invoke(spd_harvest_command, arguments)
    assert result.exit_code == 1
    assert "cuda:1" in result.stderr
    assert "--device cuda " in result.stderr


def test_the_daemon_is_not_given_a_device_that_it_would_ignore(
    tiny: TinyHarvest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "harvest_assets.cli.spd_harvest.where_to_harvest", lambda _on_cluster: "daemon"
    )
    arguments = [tiny.key, "--device", "cpu", "--seed", "8"]
    result = CliRunner().invoke(spd_harvest_command, arguments)
    assert result.exit_code == 1
    assert "--device" in result.stderr
    assert "HARVEST_DEVICE" in result.stderr


REFUSED = """
import sys
from click.testing import CliRunner
from harvest_assets.cli.main import cli
from harvest_assets.cli.spd_harvest import spd_harvest_command
heavy = {"torch", "transformers", "datasets", "wandb", "dagster", "polars", "pyarrow", "numpy"}
run = "local/spd/s-aaaa1111"
for command, words in (
    (cli, f"{run} --n_batches -1"), (cli, f"{run} --n_shards 17"), (cli, f"{run} --layers="),
    (cli, f"{run} --out_name ../x"), (cli, f"{run} --device tpu"), (cli, f"{run} --step -1"),
    (cli, f"{run} --ci_threshold nan --dry-run"), (cli, "a,b/c/d"),
    (cli, f"{run} --quiet --verbose"),
    (cli, "demo --device tpu"), (cli, "backfill --device tpu"), (cli, "list x"),
    (cli, "register a,b/c/d"), (cli, "register"), (cli, "register --project x"),
    (cli, "register --project a/b --since soon"), (cli, f"register {run} --since 2026-01-01"),
    (cli, f"register {run} local/spd/s-bbbb2222 --out_name z"), (cli, "unregister"),
    (cli, "clean --older-than 3y"), (cli, "view a,b/c"), (cli, "view --port -1"),
    (cli, "ui --port 70000"), (cli, "verify nosuch"), (cli, "status nosuch"), (cli, "pack nosuch"),
    (cli, "export nosuch x --format harvest-db"),
    (cli, "unpack x --out-name ../x"), (cli, "pull ftp://x"), (cli, "push nosuch ftp://x"),
    (cli, "push nosuch wandb://a/b/c --private"), (cli, "completion tcsh"),
    (spd_harvest_command, f"{run} --n_batches 0"), (spd_harvest_command, "a,b/c/d"),
    (spd_harvest_command, f"{run} local/spd/s-bbbb2222 --out_name z"),
):
    result = CliRunner().invoke(command, words.split())
    assert result.exit_code in (1, 2), (words, result)
    assert "Error: " in result.stderr, (words, result.exception)
    assert not heavy & sys.modules.keys(), (words, heavy & sys.modules.keys())
"""


def test_no_command_loads_anything_heavy_before_it_refuses(out_dir: Path):
    done = subprocess.run(
        [sys.executable, "-c", REFUSED],
        env={**os.environ, "SPD_OUT_DIR": str(out_dir), "HARVEST_SLURM_CLUSTER": "slurm"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not out_dir.exists()


@pytest.mark.parametrize("variable", ["HARVEST_KEEP", "HARVEST_ON_SHORTAGE", "HARVEST_DEVICE"])
@pytest.mark.usefixtures("out_dir")
def test_a_variable_that_is_needed_at_the_end_is_checked_at_the_start(
    variable: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(variable, "nonsense")
    result = invoke("local/spd/s-aaaa1111")
    assert result.exit_code == 1
    assert variable in result.stderr


def test_a_closed_pipe_ends_a_command_without_a_word(tmp_path: Path):
    script = f"{sys.executable} -m harvest_assets completion zsh | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "SPD_OUT_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.strip() in {"0", "1"}  # 0: it had written all before the pipe was closed


@pytest.mark.slow
def test_a_harvest_prints_json_alone_or_its_log(tmp_path: Path):
    run = write_world(tmp_path / "world")
    env = {**os.environ, "SPD_OUT_DIR": str(tmp_path / "out"), "DAGSTER_HOME": str(tmp_path / "d")}

    def harvest(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harvest_assets", str(run), *OPTIONS, *options]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    first = harvest("--json", "--device", "cpu")
    assert first.returncode == 0, first.stderr
    (found,) = json.loads(first.stdout)["harvests"]
    assert found["seconds"] > 0
    assert all((Path(found["path"]) / file).stat().st_size for file in found["files"])
    assert "merging" in first.stderr
    assert "Warning" not in first.stderr
    logs = [log.read_text() for log in Path(found["path"]).glob("logs/*.log")]
    assert len(logs) == 3
    assert not [log for log in logs if "Warning" in log]
    again = harvest("--pmi_token_top_k", "4", "--verbose")
    assert again.returncode == 0, again.stderr
    assert "dagster - DEBUG - merge" in again.stderr
    assert "STEP_SUCCESS" in again.stderr
    assert "dagster" not in again.stdout
    silent = harvest("--pmi_token_top_k", "3", "--quiet")
    assert (silent.returncode, silent.stdout, silent.stderr) == (0, "", "")


def test_a_prepared_harvest_has_time_for_merging(tiny: TinyHarvest):
    assert merge_seconds_of(tiny.layout) > 0
