"""What strangers wrote is shown as what it is, and no key stands anywhere."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harvest_assets.errors import HarvestError
from harvest_assets_tests.cli.test_command import command
from harvest_assets_tests.loopback_wandb import LoopbackWandb
from harvest_assets_tests.tiny_run import write_world

WANDB_KEY = "5ec7e7" + "ab12" * 8 + "c9"
SECRETS = {"WANDB_API_KEY": WANDB_KEY, "HF_TOKEN": "hf_plantedPlantedPlanted"}
PASSWORD = "planted-in-netrc-0123456789"  # noqa: S105
SPD_HARVEST = "from harvest_assets.cli.start import spd_harvest; spd_harvest()"


def traces(text: bytes) -> list[str]:
    """The secrets in a text, also as a header has them."""
    return [
        secret
        for secret in (*SECRETS.values(), PASSWORD)
        if secret.encode() in text or base64.b64encode(b"api:" + secret.encode()) in text
    ]


@pytest.mark.slow
def test_a_planted_key_is_found_nowhere(tmp_path: Path):
    files = {file.name: file.read_bytes() for file in write_world(tmp_path / "world").iterdir()}
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HARVEST_", "DAGSTER_"))}
    with LoopbackWandb() as server:
        env = {
            **kept,
            **server.environment,
            **SECRETS,
            "HOME": str(home),
            "SPD_OUT_DIR": str(tmp_path / "out"),
            "DAGSTER_HOME": str(tmp_path / "dagster"),
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "HARVEST_SLURM_CLUSTER": "local",
        }
        server.add_run("ent/proj/s-00000000", files)
        harvest = ["--slurm", "ent/proj/s-00000000", "--n_batches", "4", "--batch_size", "8"]
        done = subprocess.run(
            [sys.executable, "-c", SPD_HARVEST, *harvest],
            env=env,
            cwd=work,
            capture_output=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        server.echoes = True
        said = done.stdout + done.stderr
        for status in (401, 403):
            server.status = status
            for arguments in (["ent/proj/s-11111111"], ["register", "--project", "ent/proj"]):
                refused = command(*arguments, env={**env, "HARVEST_MAX_RETRIES": "0"}, cwd=work)
                assert refused.returncode == 1, refused.stdout
                said += (refused.stdout + refused.stderr).encode()
    assert traces(said) == [], said.decode()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".pkl" for path in written)
    assert [path for path in written if traces(path.read_bytes())] == []


def test_an_error_tells_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine api.wandb.ai\n  login user\n  password {PASSWORD}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    address = "http://me:pass%word@proxy.example/x"
    told = str(HarvestError(f"{WANDB_KEY} {SECRETS['HF_TOKEN']} {PASSWORD} {address}."))
    assert told == "*** *** *** http://***@proxy.example/x."


def test_an_error_acts_on_no_terminal():
    told = str(HarvestError("a\x1b]0;x\x07\r\x9b2J\u202e\udcff\u200b é 日 b"))
    assert told == r"a\x1b]0;x\x07\r\x9b2J\u202e\udcff\u200b é 日 b"
    assert len(str(HarvestError("x" * 10**6))) < 20_000
