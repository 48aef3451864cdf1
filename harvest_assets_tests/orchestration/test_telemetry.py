"""Dagster's telemetry is off whatever the instance's settings say, here and in other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from harvest_assets.orchestration.instance import dagster_home
from harvest_assets.orchestration.telemetry import keep_telemetry_off

OURS = (
    "import sys; from harvest_assets.orchestration.telemetry import run_dagster; "
    "run_dagster(sys.argv[1:])"
)


@pytest.mark.parametrize("settings", [None, "", "telemetry:\n  enabled: true\n"])
def test_an_instance_has_it_off_and_passes_that_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str | None
):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    if settings is not None:
        (tmp_path / "dagster.yaml").write_text(settings)
    keep_telemetry_off()
    with dg.DagsterInstance.get() as instance:
        assert not instance.telemetry_enabled
        assert instance.get_ref().settings["telemetry"] == {"enabled": False}


def materialize(command: list[str], home: Path, dagster: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOME": str(home), "DAGSTER_HOME": str(dagster)}
    arguments = ["asset", "materialize", "-m", "harvest_assets.definitions"]
    arguments += ["--select", "run_checkpoint", "--partition", "ent/proj/s-00000000"]
    return subprocess.run(
        [sys.executable, *command, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        pytest.param(["-m", "dagster"], None, marks=pytest.mark.slow),
        (["-c", OURS], "telemetry:\n  enabled: true\n"),
    ],
)
def test_dagsters_command_writes_nothing_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], settings: str | None
):
    home, dagster = tmp_path / "home", tmp_path / "dagster"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(dagster))
    if settings is not None:
        dagster.mkdir()
        (dagster / "dagster.yaml").write_text(settings)
    dagster_home()
    done = materialize(command, home, dagster)
    assert "s-00000000" in done.stderr, "it came as far as the partition, which is not there"
    assert not (home / ".dagster").exists()
    assert not (dagster / ".telemetry").exists()
    if settings is not None:
        assert (dagster / "dagster.yaml").read_text() == settings
