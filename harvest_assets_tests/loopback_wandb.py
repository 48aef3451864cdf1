"""A W&B server on the loopback interface, as much of one as the real client needs here."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import quote, unquote

API_KEY = "f" * 40


@dataclass
class LoopbackRun:
    """A run and its files.

    Args:
        files: content by file name.
        reported_sizes: sizes the server reports in place of the true ones, by file name.
        odd: fields that the server sends in place of the true ones; None sends no run at all.
    """

    entity: str
    project: str
    run_id: str
    files: dict[str, bytes]
    state: str = "finished"
    created_at: str = "2025-01-01T00:00:00Z"
    heartbeat_at: str = "2025-01-01T01:00:00Z"
    config: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    reported_sizes: dict[str, int] = field(default_factory=dict)
    odd: dict[str, Any] | None = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.entity}/{self.project}/{self.run_id}"


class LoopbackWandb:
    """The server; use it in a `with` statement.

    Attributes:
        operations: name and variables of each GraphQL operation asked for, in order.
        downloads: `entity/project/run_id/file` of each download begun, in order.
        gate: downloads wait before the second half of a file while this is not set.
        status: of every answer to a GraphQL question; other than 200, nothing is answered.
        delay: seconds before each answer.
        spell: how times are written.
        echoes: an error response contains the credentials of the request.
        on_operation: called with the name of each operation before it is answered; where it
            answers a status, that is sent instead.
    """

    def __init__(self) -> None:
        self.runs: dict[str, LoopbackRun] = {}
        self.operations: list[tuple[str, dict[str, Any]]] = []
        self.downloads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.download_begun = threading.Event()
        self.status = 200
        self.delay = 0.0
        self.spell: Callable[[str], str] = str
        self.echoes = False
        self.on_operation: Callable[[str], int | None] = lambda _operation: None
        self._port = 0

    def __enter__(self) -> Self:
        self.come()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.gate.set()
        self.go_away()

    def come(self) -> None:
        """Begin to answer, at the same address as before."""
        self._server = _Server(("127.0.0.1", self._port), self._handler())
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def go_away(self) -> None:
        """Refuse connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which a process reaches only this server."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": API_KEY,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_SILENT": "true",
        }

    def add_run(self, key: str, files: dict[str, bytes], **details: Any) -> LoopbackRun:
        """Add a run `entity/project/run_id` with these files."""
        run = LoopbackRun(*key.split("/"), files=files, **details)
        self.runs[key] = run
        return run

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The `data` of a GraphQL answer."""
        operation = operation_of(query)
        self.operations.append((operation, variables))
        if operation in ("Run", "RunFiles"):
            return {"project": self._project_with_run(operation, variables)}
        if operation == "Runs":
            return {"project": self._project_with_runs(variables)}
        viewer = {"id": "dXNlcg==", "username": "tester", "entity": "tester", "email": "t@t"}
        return {"viewer": {**viewer, "name": "tester", "teams": {"edges": []}, "flags": "{}"}}

    def _project_with_run(self, operation: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        key = f"{variables['entity']}/{variables['project']}/{variables['name']}"
        run = self.runs.get(key)
        if run is None:
            return None
        if operation == "Run":
            return {"run": self._run_node(run)}
        names = sorted(variables.get("fileNames") or run.files)
        nodes = [self._file_node(run, name) for name in names if name in run.files]
        limit = variables.get("fileLimit") or 50
        page = _page(nodes, variables.get("fileCursor"), limit)
        return {"internalId": "1", "run": {"fileCount": len(nodes), "files": page}}

    def _project_with_runs(self, variables: dict[str, Any]) -> dict[str, Any]:
        """The runs of the project that pass the filters, which are on state and date."""
        filters = json.loads(variables.get("filters") or "{}")
        found = [
            run
            for run in list(self.runs.values())
            if (run.entity, run.project) == (variables["entity"], variables["project"])
            and _passes(run, filters)
        ]
        order = variables.get("order") or "+created_at"
        field_name = order.lstrip("+-")
        found.sort(key=lambda run: _time(getattr(run, field_name)), reverse=order[0] == "-")
        nodes = [self._run_node(run) for run in found]
        page = _page(nodes, variables.get("cursor"), variables.get("perPage") or 50)
        return {"internalId": "1", "runCount": len(nodes), "readOnly": False, "runs": page}

    def _run_node(self, run: LoopbackRun) -> dict[str, Any] | None:
        if run.odd is None:
            return None
        return {
            "id": f"node-{run.key}",
            "projectId": "1",
            "tags": run.tags,
            "name": run.run_id,
            "displayName": run.run_id,
            "sweepName": None,
            "state": run.state,
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "group": None,
            "jobType": None,
            "commit": None,
            "readOnly": False,
            "createdAt": self.spell(run.created_at),
            "heartbeatAt": self.spell(run.heartbeat_at),
            "description": None,
            "notes": None,
            "systemMetrics": "{}",
            "summaryMetrics": "{}",
            "historyLineCount": 0,
            "user": {"name": "tester", "username": "tester"},
            "historyKeys": None,
            **run.odd,
        }

    def _file_node(self, run: LoopbackRun, name: str) -> dict[str, Any]:
        url = f"{self.url}/files/{quote(run.key)}/{quote(name)}"
        return {
            "id": f"file-{name}",
            "name": name,
            "url": url,
            "directUrl": url,
            "sizeBytes": str(run.reported_sizes.get(name, len(run.files[name]))),
            "mimetype": "application/octet-stream",
            "updatedAt": run.created_at,
            "md5": None,
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                asked = json.loads(self.rfile.read(length) or b"{}")
                query = asked.get("query", "")
                time.sleep(loopback.delay)
                status = loopback.on_operation(operation_of(query)) or loopback.status
                if status != 200:
                    said = [{"message": self._who_asks()}] if loopback.echoes else []
                    body = json.dumps({"errors": said}).encode()
                    self._send(status, body, "application/json")
                    return
                data = loopback.answer(query, asked.get("variables") or {})
                self._send(200, json.dumps({"data": data}).encode(), "application/json")

            def do_GET(self) -> None:
                _, _, rest = self.path.partition("/files/")
                key, _, name = unquote(rest.partition("?")[0]).rpartition("/")
                run = loopback.runs.get(key)
                if run is None or name not in run.files:
                    self._send(404, b"no such file", "text/plain")
                    return
                loopback.downloads.append(f"{key}/{name}")
                self._send_slowly(run.files[name])

            def log_message(self, *_arguments: Any) -> None:
                pass

            def _who_asks(self) -> str:
                header = self.headers.get("Authorization", "")
                return f"{header} {base64.b64decode(header.rpartition(' ')[2]).decode()} is unknown"

            def _send(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _send_slowly(self, body: bytes) -> None:
                half = len(body) // 2
                try:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body[:half])
                    self.wfile.flush()
                    loopback.download_begun.set()
                    loopback.gate.wait()
                    self.wfile.write(body[half:])
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


def operation_of(query: str) -> str:
    match = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
    return match[1] if match else ""


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _passes(run: LoopbackRun, filters: dict[str, Any]) -> bool:
    created = filters.get("createdAt", {})
    return (
        run.state in filters.get("state", {}).get("$in", [run.state])
        and _time(created.get("$gte", run.created_at)) <= _time(run.created_at)
        and _time(created.get("$lte", run.created_at)) >= _time(run.created_at)
    )


def _page(nodes: list[dict[str, Any]], cursor: str | None, size: int) -> dict[str, Any]:
    start = int(cursor or 0)
    stop = min(start + size, len(nodes))
    edges = [{"node": nodes[place], "cursor": str(place + 1)} for place in range(start, stop)]
    more = {"endCursor": str(stop) if edges else None, "hasNextPage": stop < len(nodes)}
    return {"edges": edges, "pageInfo": more}
