"""Many readers of `view` at once, some of them idle, while the harvest is replaced under them."""

from __future__ import annotations

import random
import shutil
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.results.component_index import read_index
from harvest_assets_tests.viewer.synthetic import write_harvest
from harvest_assets_tests.viewer.test_browser import started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TEXTS = [f" word{n}" for n in range(300)]
N_READERS, N_IDLE, N_PAGES = 50, 200, 20
FEW, MORE = 200, 260


@pytest.fixture
def out(tmp_path: Path) -> Path:
    out = tmp_path / "out"
    write_harvest(out / "harvest" / "some", TEXTS, FEW, 30, seed=1)
    write_harvest(out / "harvest" / "other", TEXTS, MORE, 30, seed=2)
    return out


@pytest.fixture
def address(out: Path) -> Iterator[str]:
    for address in started("some", out):
        yield address.removeprefix("http://")


def server_of(address: str) -> psutil.Process:
    """The process that listens there."""
    port = int(address.rpartition(":")[2])
    for process in psutil.Process().children(recursive=True):
        if any(c.laddr.port == port and c.status == "LISTEN" for c in process.net_connections()):
            return process
    raise AssertionError(address)


def ask(address: str, page: str) -> tuple[float, int, bytes]:
    """Seconds, status and body of an answer; a server that hangs fails the test."""
    begun = time.monotonic()
    connection = HTTPConnection(address, timeout=60)
    try:
        connection.request("GET", page)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    return time.monotonic() - begun, answer.status, body


def replace(out: Path) -> None:
    """The files of `other` take the place of those of `some`, one rename after the other."""
    some, other = (HarvestLayout(out / "harvest" / name) for name in ("some", "other"))
    aside = out / "aside"
    shutil.copytree(other.root, aside)
    for file in sorted(aside.rglob("*")):
        if file.is_file() and "tokenizer" not in file.parts:
            file.replace(some.root / file.relative_to(aside))
            time.sleep(0.05)


def test_fifty_readers_while_the_harvest_is_replaced(out: Path, address: str):
    keys = read_index(HarvestLayout(out / "harvest" / "some"))["component_key"].to_pylist()
    server = server_of(address)
    for page in ("", f"/component/{keys[1]}", f"/export.html?key={keys[1]}"):
        assert ask(address, f"/run/some{page}")[1] == 200
    files, memory = server.num_fds(), server.memory_info().rss
    idle = [socket.create_connection(address.split(":")) for _ in range(N_IDLE)]
    for n, connection in enumerate(idle):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127" if n % 2 else b"")

    def read(reader: int) -> list[tuple[float, int, bytes]]:
        drawn = random.Random(reader)
        pages = ["/run/some", "/run/some?sort=density", f"/run/some/export.html?key={keys[1]}"]
        pages += [f"/run/some/component/{drawn.choice(keys)}" for _ in range(N_PAGES)]
        return [ask(address, page) for page in drawn.sample(pages, N_PAGES)]

    replacing = threading.Timer(1.0, replace, args=(out,))
    replacing.start()
    with ThreadPoolExecutor(N_READERS) as pool:
        answers = [answer for answers in pool.map(read, range(N_READERS)) for answer in answers]
    replacing.join()
    for connection in idle:
        connection.close()
    seconds = [second for second, _, _ in answers]
    print(f"median {statistics.median(seconds):.3f} s, slowest {max(seconds):.3f} s")
    # In between, the folder holds files of two harvests, which is reported.
    assert {status for _, status, _ in answers} <= {200, 404}
    assert sum(status == 200 for _, status, _ in answers) > len(answers) / 2
    errors = [body.decode() for _, status, body in answers if status == 404]
    assert all("This page cannot be shown" in body for body in errors)
    status, body = ask(address, "/run/some")[1:]
    assert status == 200
    assert f"{MORE:,}" in body.decode()
    time.sleep(1)
    assert server.num_fds() < files + 60
    assert server.memory_info().rss < memory + 300e6


def test_what_is_too_long_is_refused(address: str):
    for request in (
        b"GET /" + b"a" * 2_000_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 2_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 200_000 + b"\r\n",
        b"\x16\x03\x01" + b"\x00" * 5000,
    ):
        with socket.create_connection(address.split(":"), timeout=30) as connection:
            answer = b""
            try:
                connection.sendall(request)
                answer = connection.recv(4096)
            except (ConnectionResetError, BrokenPipeError):
                pass
            assert answer == b"" or answer.split()[1] in (b"400", b"404", b"414", b"431"), answer
    assert ask(address, "/run/some")[1] == 200
