"""The UI with its daemon, as `harvest-assets ui` starts it, for tests that talk to both."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg


@contextmanager
def dagster_dev(environment: dict[str, str], folder: Path) -> Iterator[str]:
    """Yields the address; `ui.log` in `folder` has what was printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log_file = folder / "ui.log"
    with log_file.open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "harvest_assets", "ui", "--port", str(port)],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"{url}/server_info", timeout=2).read()
                break
            except OSError:
                assert process.poll() is None, log_file.read_text()
                assert time.monotonic() < deadline, log_file.read_text()
                time.sleep(0.5)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def graphql(address: str, query: str, variables: dict | None = None) -> dict:
    """The `data` of a response."""
    body = json.dumps({"query": query, "variables": variables or {}}).encode()
    request = urllib.request.Request(
        f"{address}/graphql", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        response = json.loads(answer.read())
    assert not response.get("errors"), response
    return response["data"]


def worker_pid(instance: dg.DagsterInstance, run_id: str) -> int | None:
    """The process that a code server started for a run; None if none did."""
    for entry in instance.all_logs(run_id, dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        pid = None if event is None else event.engine_event_data.metadata.get("pid")
        if pid is not None:
            return int(str(pid.value))
    return None
