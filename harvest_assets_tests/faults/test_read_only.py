"""The command where home, sources and virtual environment cannot be written, as in a container.

Root may write whatever permissions say, so these are real read-only mounts in a mount namespace.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import harvest_assets
from harvest_assets.files.manifest import disagreements
from harvest_assets.store.registry import registration_for
from harvest_assets.wandb_client.run_name import parse_run
from harvest_assets_tests.loopback_hub import LoopbackHub
from harvest_assets_tests.tiny_run import write_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SOURCES = Path(harvest_assets.__file__).parents[1]
CACHES = ("HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "DAGSTER_HOME")
MOUNTS = """\
for folder in "$HOME" "$SOURCES" "$PREFIX"; do
    mount --bind "$folder" "$folder" && mount -o remount,bind,ro "$folder" || exit 125
done
exec "$@"
"""


class ReadOnly:
    """Starts commands in such a place; `out`, `dagster` and `/tmp` can be written."""

    def __init__(self, folder: Path) -> None:
        self.home, self.out, self.dagster = (folder / name for name in ("home", "out", "dagster"))
        for made in (self.home, self.out, self.dagster):
            made.mkdir()
        kept = {name: value for name, value in os.environ.items() if name not in CACHES}
        self.environment = {
            **kept,
            "HOME": str(self.home),
            "SPD_OUT_DIR": str(self.out),
            "DAGSTER_HOME": str(self.dagster),
            "SOURCES": str(SOURCES),
            "PREFIX": sys.prefix,
            "PYTHONDONTWRITEBYTECODE": "",
        }

    def command(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        namespace = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
        python = [sys.executable, "-m", "harvest_assets", *arguments]
        return subprocess.Popen(
            [*namespace, "bash", "-c", MOUNTS, "bash", *python],
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, **variables: str) -> tuple[int, str]:
        process = self.command(*arguments, **variables)
        output, _ = process.communicate(timeout=400)
        return process.returncode, output


@pytest.fixture
def place(tmp_path: Path) -> ReadOnly:
    place = ReadOnly(tmp_path)
    if shutil.which("unshare") is None or place.run("--version")[0]:
        pytest.skip("nothing can be mounted here")
    return place


def test_a_harvest_and_its_page(place: ReadOnly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = write_world(tmp_path / "world")
    own = "telemetry:\n  enabled: true\n"
    (place.dagster / "dagster.yaml").write_text(own)
    status, output = place.run(str(run), "--n_batches", "4", "--batch_size", "8")
    assert status == 0, output
    monkeypatch.setenv("SPD_OUT_DIR", str(place.out))
    layout = registration_for(parse_run(str(run)), None).layout
    assert layout.components.exists()
    assert disagreements(layout, deep=True) == []
    assert list(place.home.iterdir()) == []
    assert (place.dagster / "dagster.yaml").read_text() == own
    assert not (place.dagster / ".telemetry").exists()
    page = place.command("view", str(run), "--port", "0", "--no-browser")
    try:
        printed = (re.search(r"http://\S+", line) for line in page.stdout)
        address = next(found[0] for found in printed if found)
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert answer.status == 200
            assert run.name in answer.read().decode()
    finally:
        page.send_signal(signal.SIGINT)
        page.wait(timeout=60)


@pytest.mark.parametrize("variable", ["SPD_OUT_DIR", "DAGSTER_HOME"])
def test_a_folder_that_cannot_be_made_names_its_variable(
    place: ReadOnly, tmp_path: Path, variable: str
):
    run = write_world(tmp_path / "world")
    for unset in ("", str(place.home / "own")):
        status, output = place.run(str(run), **{variable: unset})
        assert status == 1
        assert f"Set {variable}" in output.splitlines()[-1], output


def test_a_hub_that_cannot_be_cached_names_its_variable(place: ReadOnly, tmp_path: Path):
    run = write_world(tmp_path / "world")
    config = run / "final_config.yaml"
    config.write_text(config.read_text().replace(str(tmp_path / "world" / "dataset"), "own/data"))
    with LoopbackHub() as hub:
        hub.add("datasets", "own/data", tmp_path / "world" / "dataset")
        variables = hub.environment(place.home / "huggingface")
        status, output = place.run(str(run), "--n_batches", "4", "--batch_size", "8", **variables)
    assert status == 1
    assert "HF_HOME" in output.splitlines()[-1], output
