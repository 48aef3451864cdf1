"""Several harvests of one run, side by side, as a person makes and reads them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner, Result
from starlette.testclient import TestClient

from harvest_assets.cli.main import cli
from harvest_assets.loaders import load_activation_contexts_summary, load_components_frame
from harvest_assets.orchestration.partitions import RUN_DIMENSION
from harvest_assets.store.lookup import find_harvest
from harvest_assets.store.registry import registration_of
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets_tests.tiny_harvest import TinyHarvest
from harvest_assets_tests.tiny_run import write_world


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(it.relative_to(folder)): it.read_bytes() for it in folder.rglob("*") if it.is_file()
    }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "out"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    return write_world(tmp_path / "world")


def test_two_harvests_of_a_run_stand_side_by_side(run: Path, tmp_path: Path):
    with dg.DagsterInstance.ephemeral() as instance:
        first, dense = (TinyHarvest.of(instance, run, name=name) for name in (None, "dense"))
        first.harvest(n_batches=2)
        before = contents(first.layout.root)
        dense.harvest(n_batches=2, ci_threshold=0.5)
    assert contents(first.layout.root) == before
    folders = [first.layout.root.name, f"{first.layout.root.name}@dense"]
    assert dense.layout.root.name == folders[1]

    listed = {it["name"]: it for it in json.loads(invoke("list", "--json").stdout)}
    assert [listed[name]["key"] for name in folders] == [first.key, f"{first.key}@dense"]
    assert {it["run"] for it in listed.values()} == {first.key}
    assert [listed[name]["settings"]["ci_threshold"] for name in folders] == [1e-6, 0.5]
    assert f"{first.key}@dense " in invoke("list").stdout
    assert json.loads(dense.layout.config.read_text())["wandb_path"].endswith(folders[0])

    for name in (*folders, f"{first.key}@dense", f"{run}@dense"):
        verified = invoke("verify", name)
        assert verified.exit_code == 0, verified.output
        assert name in folders or f"Harvest {dense.key}, in {folders[1]}." in verified.stderr
        assert "does not name" not in verified.output
    for command in ("verify", "status", "pack"):
        for name in (first.key, str(run)):
            several = invoke(command, name)
            assert several.exit_code == 1
            assert f"{folders[1]} ({first.key}@dense)" in several.stderr
    with pytest.warns(UserWarning, match=f"{folders[1]} "):
        assert load_activation_contexts_summary(first.key) is None
    firings = [load_components_frame(name)["firing_count"] for name in folders]
    assert (firings[1] <= firings[0]).all()
    assert firings[0].sum() > firings[1].sum() > 0

    client = TestClient(make_app(Library(), None), base_url="http://127.0.0.1")
    page = client.get("/harvests").text
    assert f"<td>{first.key}</td>" in page
    assert f"<td>{first.key}@dense</td>" in page
    assert f"<title>{first.key}@dense</title>" in client.get(f"/run/{folders[1]}").text

    packed = tmp_path / "dense.tar.zst"
    assert invoke("pack", f"{first.key}@dense", str(packed)).exit_code == 0
    received = invoke("unpack", str(packed), "--out-name", "received")
    assert received.exit_code == 0, received.output
    assert f"{first.key}@dense, in received" in received.stderr
    assert load_activation_contexts_summary("received")
    several = invoke("verify", f"{first.key}@dense")
    assert several.exit_code == 0, "its own folder goes first"
    dense.layout.harvest_name.write_text("{}")
    assert "harvest_name.json" in invoke("verify", folders[1]).stderr
    assert find_harvest(f"{first.key}@dense").root.name == "received"


def test_each_is_a_partition_of_its_own(run: Path):
    dense = invoke("register", f"{run}@dense")
    assert dense.exit_code == 0, dense.output
    assert "|00'" in dense.stdout
    assert invoke("register", str(run)).exit_code == 0
    other = invoke("register", str(run), "--out-name", "other")
    assert other.exit_code == 0, other.output
    assert "first" not in other.stderr, "nothing is harvested yet"
    with dg.DagsterInstance.get() as instance:
        first, further = sorted(instance.get_dynamic_partitions(RUN_DIMENSION))
        assert further == f"{first}@dense"
        assert invoke("unregister", f"{run}@dense").exit_code == 0
        assert instance.get_dynamic_partitions(RUN_DIMENSION) == [first]
    renamed = invoke("register", str(run), "--out-name", "mine")
    assert "other" in renamed.stderr, "the folder that was chosen for the first"
    assert invoke("unregister", str(run)).exit_code == 0
    assert invoke("unregister", f"{run}@mine").exit_code == 0
    again = invoke("register", str(run), "--out-name", "mine")
    assert again.exit_code == 0, again.output
    assert "first" not in again.stderr, "nothing was harvested, and nothing is registered"
    with dg.DagsterInstance.get() as instance:
        assert instance.get_dynamic_partitions(RUN_DIMENSION) == [first]
    assert registration_of(first).out_name == "mine"
    assert registration_of(first).reference.path == run
    refused = invoke("register", f"{run}@a|b")
    assert refused.exit_code == 1
    assert "a|b" in refused.stderr


@pytest.mark.slow
def test_a_killed_further_harvest_is_continued_and_the_first_is_as_it_was(
    run: Path, tmp_path: Path
):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HARVEST_", "DAGSTER_"))}
    env = {**kept, "HOME": str(tmp_path), "SPD_OUT_DIR": str(tmp_path / "out")}
    options = ["--batch_size", "8", "--activation_examples_per_component", "9", "--n_shards", "1"]

    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "harvest_assets", *arguments, *options]

    def done(*arguments: str) -> str:
        result = subprocess.run(
            command(*arguments), env=env, capture_output=True, text=True, timeout=240, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout + result.stderr

    done(str(run), "--n_batches", "2")
    (first,) = (tmp_path / "out/harvest").iterdir()
    before = contents(first)
    dense = first.with_name("dense")
    asked = (str(run), "--out-name", "dense", "--ci_threshold", "0.1", "--n_batches", "60")
    killed = subprocess.Popen(
        command(*asked), env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (dense / "shards/00/progress.json").exists():
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    said = killed.communicate()[1]
    assert f"@{dense.name}" in said
    assert first.name in said
    assert not (dense / "activation_contexts/components.jsonl").exists()
    assert contents(first) == before

    assert "@dense is harvested" in done(*asked)
    assert "@dense is already harvested" in done(f"{run}@dense", *asked[3:])
    assert contents(first) == before
    assert invoke("verify", "dense").exit_code == 0
    assert json.loads((dense / "activation_contexts/config.json").read_text())["n_batches"] == 60
