"""What others wrote is shown as what it is, and no key is found anywhere."""

from __future__ import annotations

import base64
import html
import logging
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from harvest_assets.cli.errors import errors_reported
from harvest_assets.errors import HarvestError
from harvest_assets.files.sanitize import (
    RedactingFilter,
    markdown_cell,
    presentable,
    presentable_error,
)
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
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
            "PYTHONPATH": str(Path(__file__).parents[2]),
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


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A text with all secrets that this process knows, which a terminal would act on."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine api.wandb.ai\n  login user\n  password {PASSWORD}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    address = "http://me:pass%word@proxy.example/x"
    return f"\x1b[2J{WANDB_KEY} {SECRETS['HF_TOKEN']} {PASSWORD} {address}"


def test_a_text_is_presentable(planted: str):
    assert presentable(planted) == r"\x1b[2J*** *** *** http://***@proxy.example/x"
    shown = presentable("a\x1b]0;x\x07\r\x9b2J\u202e\udcff\u200b é 日 b")
    assert shown == r"a\x1b]0;x\x07\r\x9b2J\u202e\udcff\u200b é 日 b"
    assert len(presentable("x" * 10**6)) < 20_000


def test_an_error_keeps_its_text(planted: str):
    assert str(HarvestError(planted)) == planted


def _raise_chain(planted: str) -> None:
    """A secret in the error, in its cause, in what that came after, and in a note."""
    try:
        try:
            raise KeyError(planted)
        except KeyError:
            error = OSError(5, planted, planted)
            error.add_note(planted)
            raise error  # noqa: B904 - what it came after is the point
    except OSError as error:
        raise HarvestError(planted) from error


def test_an_error_is_presentable_with_its_causes(planted: str):
    with pytest.raises(HarvestError) as raised:
        _raise_chain(planted)
    shown = presentable_error(raised.value)
    text = "".join(traceback.format_exception(shown))
    assert traces(text.encode()) == []
    assert "\x1b" not in text
    for name in ("HarvestError", "OSError", "KeyError", "_raise_chain"):
        assert name in text
    harmless = ValueError("a")
    assert presentable_error(harmless) is harmless


def test_a_command_prints_no_secret(planted: str, capfd: pytest.CaptureFixture[str]):
    for debug in (False, True):
        with pytest.raises(SystemExit) as ended, errors_reported(debug=debug):
            _raise_chain(planted)
        assert ended.value.code == 1
    out, err = capfd.readouterr()
    assert traces((out + err).encode()) == []
    assert err.count("Error: ") >= 2
    assert "_raise_chain" in err


UNCAUGHT = """
import sys, threading
from harvest_assets.files.sanitize import redact_uncaught_errors
redact_uncaught_errors()
def fail():
    raise RuntimeError(sys.argv[1])
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""


def test_errors_that_nobody_catches_print_no_secret(planted: str):
    done = subprocess.run(
        [sys.executable, "-c", UNCAUGHT, planted], capture_output=True, check=False
    )
    assert done.returncode == 1
    assert traces(done.stderr) == []
    assert done.stderr.count(b"RuntimeError: \\x1b[2J***") == 2


@pytest.mark.usefixtures("out_dir")
def test_a_page_shows_no_secret(planted: str, monkeypatch: pytest.MonkeyPatch):
    def get(_library: Library, _name: str) -> None:
        raise HarvestError(planted)

    monkeypatch.setattr(Library, "get", get)
    page = TestClient(make_app(Library(), "x"), base_url="http://localhost").get("/run/x")
    assert page.status_code == 404
    assert "***" in page.text
    assert traces(page.content) == []


def test_a_log_record_holds_no_secret(planted: str, caplog: pytest.LogCaptureFixture):
    logger = logging.getLogger("test_sanitize")
    logger.addFilter(RedactingFilter())
    try:
        _raise_chain(planted)
    except HarvestError:
        logger.exception("It was %s", planted)
    assert "It was" in caplog.text
    assert "_raise_chain" in caplog.text
    assert traces(caplog.text.encode()) == []


@pytest.mark.parametrize(
    "text", ["<img src=x>", "a|b", "[x](javascript:y)", "`a`", "**b**", "a\n\n# b", "&lt;", "é 日"]
)
def test_a_cell_of_a_table_shows_the_text_itself(text: str):
    from markdown_it import MarkdownIt

    table = f"| head |\n|---|\n| {markdown_cell(text)} |"
    page = MarkdownIt("commonmark").enable("table").render(table)
    (cell,) = re.findall(r"<td>(.*)</td>", page)
    assert html.unescape(cell) == text.replace("\n", " ")
    assert "<" not in cell
