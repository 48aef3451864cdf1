"""A W&B server on this machine that does one thing wrong at a time."""

from __future__ import annotations

import random
import time
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler
from typing import Any

from harvest_assets_tests.loopback_wandb import LoopbackRun, LoopbackWandb
from harvest_assets_tests.orchestration.soak.events import Fault

STATUS = {Fault.LIMITED: 429, Fault.FAILING: 500, Fault.REFUSING: 403}
SPELLINGS = (
    lambda moment: moment.isoformat(),
    lambda moment: moment.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat(),
    lambda moment: moment.replace(tzinfo=None).isoformat(timespec="milliseconds"),
    lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
)
ODD_FIELDS: tuple[dict[str, Any], ...] = (
    {"createdAt": "2026-13-01T00:00:00"},
    {"createdAt": None},
    {"heartbeatAt": 1764218650},
    {"tags": [None]},
    {"state": None},
    {"name": None},
    {"config": "["},
)


class UnreliableWandb(LoopbackWandb):
    """The server.

    Attributes:
        fault: what it does wrong; None while it is healthy.
        struck: how many answers had each fault.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.fault: Fault | None = None
        self.struck: Counter[str] = Counter()
        self._dice = random.Random(seed)

    def begin(self, fault: Fault) -> None:
        self.fault = fault
        if fault == Fault.AWAY:
            self.struck[fault] += 1
            self.go_away()

    def end(self) -> None:
        if self.fault == Fault.AWAY:
            self.come()
        self.fault = None

    def has(self, fault: Fault) -> bool:
        """Whether this answer is to be wrong in that way."""
        if self.fault == fault:
            self.struck[fault] += 1
        return self.fault == fault

    def _project_with_runs(self, variables: dict[str, Any]) -> dict[str, Any]:
        project = super()._project_with_runs(variables)
        edges = project["runs"]["edges"]
        if self.has(Fault.TWICE):
            project["runs"]["edges"] = [edge for edge in edges for _ in range(2)]
        elif self.has(Fault.LEFT_OUT):
            project["runs"]["edges"] = [edge for edge in edges if self._dice.random() < 0.6]
        return project

    def _run_node(self, run: LoopbackRun) -> dict[str, Any] | None:
        node = super()._run_node(run)
        if node is not None and self.has(Fault.ODD) and self._dice.random() < 0.3:
            node.update(self._dice.choice(ODD_FIELDS))
        return node

    def _file_node(self, run: LoopbackRun, name: str) -> dict[str, Any]:
        node = super()._file_node(run, name)
        if self.has(Fault.SIZES):
            node["sizeBytes"] = str(int(node["sizeBytes"]) + 1)
        return node

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        loopback = self
        reliable: Any = super()._handler()

        class Handler(reliable):
            def _send(self, status: int, body: bytes, kind: str) -> None:
                """A response to a GraphQL request."""
                if loopback.has(Fault.SLOW):
                    time.sleep(loopback._dice.uniform(1, 4))
                if loopback.has(Fault.GARBAGE):
                    body, kind = b"<html><body>Welcome to this network!</body></html>", "text/html"
                wrong = next((s for fault, s in STATUS.items() if loopback.has(fault)), None)
                if wrong is not None:
                    status, body = wrong, b'{"errors": [{"message": "not now"}]}'
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                if status == STATUS[Fault.LIMITED]:
                    self.send_header("Retry-After", "2")
                self.end_headers()
                self._write(body, half=loopback.has(Fault.HALF))

            def _send_slowly(self, body: bytes) -> None:
                """A file."""
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self._write(body, half=loopback.has(Fault.BROKEN_OFF))

            def _write(self, body: bytes, *, half: bool) -> None:
                try:
                    self.wfile.write(body[: len(body) // 2] if half else body)
                except (BrokenPipeError, ConnectionResetError):
                    half = True
                self.close_connection = self.close_connection or half

        return Handler


def times_of(hours_old: float, minutes_silent: float, spelling: int) -> dict[str, str]:
    """When a run was created and last alive, counted back from this moment."""
    now = datetime.now(UTC)
    moments = {
        "created_at": now - timedelta(hours=hours_old),
        "heartbeat_at": now - timedelta(minutes=minutes_silent),
    }
    return {name: SPELLINGS[spelling](moment) for name, moment in moments.items()}
