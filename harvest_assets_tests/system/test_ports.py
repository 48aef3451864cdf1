"""`ui` and `view` on ports that cannot be listened on: what is said, and that nothing runs on."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from harvest_assets.cli.main import cli
from harvest_assets.errors import HarvestError
from harvest_assets.orchestration import dagster_dev
from harvest_assets.system.ports import check_free, listening, listening_processes, url_of


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Dagster's files would be; Dagster itself is not started."""

    def start(host: str, port: int, _log_level: str) -> int:
        pytest.fail(f"Dagster was started on {host}:{port}")

    monkeypatch.setattr(dagster_dev, "run_dagster_dev", start)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    return tmp_path / "dagster"


def test_a_taken_port_starts_nothing(taken: int, home: Path):
    done = CliRunner().invoke(cli, ["ui", "--port", str(taken)])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert str(taken) in done.stderr
    assert f"process {os.getpid()} " in done.stderr
    assert psutil.Process().cmdline()[0] in done.stderr
    suggested = re.search(r"--port (\d+)", done.stderr)
    assert suggested is not None
    assert check_free("127.0.0.1", int(suggested[1])) == int(suggested[1])
    assert not home.exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost"])  # noqa: S104
@pytest.mark.parametrize("check", [check_free, listening])
def test_a_port_that_is_taken_on_one_address(taken: int, host: str, check):
    with pytest.raises(HarvestError, match=str(taken)):
        check(host, taken)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "x" * 80, ""])
def test_a_host_that_is_not_this_machine(host: str, home: Path):
    done = CliRunner().invoke(cli, ["ui", "--port", "0", "--host", host])
    assert done.exit_code == 1
    assert "--host" in done.stderr
    assert host in done.stderr
    assert not home.exists()


@pytest.mark.parametrize("command", [["ui"], ["view", "x"]])
@pytest.mark.parametrize("port", ["-1", "65536", "x"])
def test_a_number_that_is_no_port(command: list[str], port: str, home: Path):
    done = CliRunner().invoke(cli, [*command, "--port", port])
    assert done.exit_code == 2
    assert port in done.stderr
    assert not home.exists()


def test_a_port_that_is_not_permitted(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "bind", refuse)
        with pytest.raises(HarvestError, match=r"80 .*not permitted"):
            check_free("127.0.0.1", 80)


def test_any_free_port_is_taken():
    port = check_free("127.0.0.1", 0)
    with listening("127.0.0.1", port) as listener:
        assert listener.getsockname()[1] == port
    assert url_of("::1", port) == f"http://[::1]:{port}/"


def in_group(group: int) -> list[psutil.Process]:
    """The processes that still run in a process group."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def ui(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The command, once it has named its address, and its port; it leaves no process."""
    port = check_free("127.0.0.1", 0)
    process = subprocess.Popen(
        [sys.executable, "-m", "harvest_assets", "ui", "--port", str(port)],
        env={**os.environ, "DAGSTER_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert str(port) in process.stdout.readline()
        yield process, port
        deadline = time.monotonic() + 60
        while in_group(process.pid):  # the code server ends a little later
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_port_that_is_taken_meanwhile_ends_everything(ui: tuple[subprocess.Popen[str], int]):
    process, port = ui
    with socket.create_server(("127.0.0.1", port)):
        _, errors = process.communicate(timeout=200)
    assert process.returncode == 1
    assert str(port) in errors.splitlines()[-1]
    assert f"process {os.getpid()} " in errors.splitlines()[-1]


@pytest.mark.slow
def test_a_code_server_that_dies_ends_everything(ui: tuple[subprocess.Popen[str], int]):
    """Dagster would go on without code, and harvest nothing more."""
    process, port = ui
    deadline = time.monotonic() + 200
    while not listening_processes(port):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    time.sleep(6)  # the command looks every five seconds
    servers = [it for it in in_group(process.pid) if {"api", "grpc"} <= {*it.cmdline()}]
    assert servers
    for server in servers:
        server.kill()
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "Dagster's code server ended unexpectedly" in errors.splitlines()[-1]


def test_an_end_that_nobody_asked_for_is_an_error(tmp_path: Path):
    """Dagster's own status is 0 also where its webserver was killed."""
    ended = "import runpy, sys; runpy.run_module = lambda *_, **__: sys.exit(0); "
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            ended + "from harvest_assets.cli.main import cli; cli(['ui', '--port=0'])",
        ],
        env={**os.environ, "DAGSTER_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Error: Dagster exited unexpectedly" in done.stderr
