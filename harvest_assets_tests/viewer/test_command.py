"""`view` on the command line: which runs it takes, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import uvicorn
from click.testing import CliRunner
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from harvest_assets.cli.main import cli
from harvest_assets.viewer.serve import Server


def view(*arguments: str):
    return CliRunner().invoke(cli, ["view", "--no-browser", *arguments])


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        ("entity/project/aaaaaaaa", "has not been harvested"),
        ("no name", "no name"),
        ("../nowhere", "does not exist"),
        ("../elsewhere", "has not been harvested"),
    ],
)
def test_a_harvest_that_cannot_be_shown_is_reported_in_a_sentence(
    out_dir: Path,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: str,
    reason: str,
):
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = view(run)
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")
    assert reason in done.output
    assert "Traceback" not in done.output


def test_a_damaged_harvest_is_reported(paths):
    good = paths.config.read_text()
    try:
        paths.config.write_text("{")
        done = view("hostile")
    finally:
        paths.config.write_text(good)
    assert done.exit_code == 1
    assert str(paths.config) in done.output


def test_a_port_that_is_taken_is_reported(paths):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = view(paths.root.name, "--port", port)
    assert done.exit_code == 1
    assert port in done.output
    assert "--port" in done.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_answers_and_ends_quietly(hostile_out: Path, number: signal.Signals):
    process = subprocess.Popen(
        [sys.executable, "-m", "harvest_assets", "view", "hostile", "--no-browser", "--port", "0"],
        env={**os.environ, "SPD_OUT_DIR": str(hostile_out)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = process.stdout.readline().split(" ")[0]
        assert b"<h1" in urllib.request.urlopen(address, timeout=30).read()
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert errors == ""


def test_a_page_that_is_cut_off_by_the_end_is_no_error(capfd: pytest.CaptureFixture[str]):
    begun = asyncio.Event()

    async def page(_request: Request) -> Response:
        begun.set()
        await asyncio.sleep(60)
        return Response()

    app = Starlette(routes=[Route("/", page)])
    app.state.close = lambda: None
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=0)
    server = Server(config, app)

    async def stopped_early() -> None:
        serving = asyncio.create_task(server.serve([listener]))
        _, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        await begun.wait()
        server.should_exit = True
        await serving
        writer.close()

    asyncio.run(stopped_early())
    assert capfd.readouterr().err == ""


def test_a_run_by_any_of_its_names(paths, out_dir: Path):  # noqa: ARG001
    (out_dir / "harvest" / "x-1a2b3c4d").mkdir(parents=True)


def test_help_teaches():
    text = CliRunner().invoke(cli, ["view", "--help"]).output
    for word in ("--port", "--host", "--no-browser", "goodfire/spd/s-d2ec3bfe"):
        assert word in text
