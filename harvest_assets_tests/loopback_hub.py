"""A Hugging Face hub on the loopback interface, as much of one as the real clients need here."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

_API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)/?(.*))?"
)
_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


# Status, headers and content.
Answer = tuple[int, dict[str, str], bytes]


class LoopbackHub:
    """The server; use it in a `with` statement.

    Attributes:
        repositories: files by name, by (`models` or `datasets`, `owner/name`).
        requests: method and path of each request, in order.
        on_file: called with the name of each file before its content is sent; where it answers a
            status, that is sent instead.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.on_file: Callable[[str], int | None] = lambda _name: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def environment(self, home: Path) -> dict[str, str]:
        """The environment variables with which a process reaches only this hub."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "",
        }

    def add(self, kind: str, name: str, source: Path | dict[str, bytes]) -> None:
        """Add a repository with exactly these files, or those of a folder."""
        if isinstance(source, Path):
            root, found = source, [path for path in source.rglob("*") if path.is_file()]
            source = {path.relative_to(root).as_posix(): path.read_bytes() for path in found}
        self.repositories[kind, name] = source

    def respond(self, method: str, path: str, body: bytes, authorization: str) -> Answer:  # noqa: ARG002
        """Status, headers and content; whoever only reads needs no authorization."""
        self.requests.append(f"{method} {path}")
        return self.answer(method, path, body)

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        """Status, headers and content."""
        parts = urlsplit(path)
        place = unquote(parts.path)
        resolve = _RESOLVE.fullmatch(place)
        if resolve:
            kind = "datasets" if resolve[1] else "models"
            return self._file(method, kind, resolve[2], resolve[3], resolve[4])
        api = _API.fullmatch(place)
        if api is None or (api[1], api[2]) not in self.repositories:
            return not_found("RepoNotFound")
        files = self.files_of(api[1], api[2], api[4] or "main")
        if files is None:
            return not_found("RevisionNotFound")
        if api[3] == "tree":
            recursive = parse_qs(parts.query).get("recursive", ["false"])[0].lower() == "true"
            return to_json(_tree(files, api[5], recursive=recursive))
        if api[3] == "paths-info":
            return to_json([e for p in _asked_paths(body) for e in _path_info(files, p)])
        siblings = [{"rfilename": name} for name in sorted(files)]
        info = {
            "_id": "1",
            "id": api[2],
            "sha": commit_of(files),
            "private": False,
            "siblings": siblings,
        }
        return to_json({**info, "downloads": 0, "likes": 0, "tags": [], "gated": False})

    def files_of(self, kind: str, name: str, revision: str) -> dict[str, bytes] | None:
        """The files of a repository at a branch or a commit."""
        files = self.repositories[kind, name]
        return files if revision in ("main", commit_of(files)) else None

    def _file(self, method: str, kind: str, name: str, revision: str, file: str) -> Answer:
        if (kind, name) not in self.repositories:
            return not_found("RepoNotFound")
        files = self.files_of(kind, name, revision)
        if files is None:
            return not_found("RevisionNotFound")
        if file not in files:
            return not_found("EntryNotFound")
        status = self.on_file(file) if method == "GET" else None
        if status is not None:
            return status, {}, b""
        headers = {
            "ETag": f'"{_oid(files[file])}"',
            "X-Repo-Commit": commit_of(files),
            "Accept-Ranges": "bytes",
        }
        return 200, headers, files[file]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer()

            def do_HEAD(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def do_PUT(self) -> None:
                self._answer()

            def log_message(self, *_arguments: Any) -> None:
                pass

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                authorization = self.headers.get("Authorization", "")
                status, headers, content = loopback.respond(
                    self.command, self.path, body, authorization
                )
                asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
                if status == 200 and asked:
                    start, stop = int(asked[1]), int(asked[2] or len(content) - 1) + 1
                    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
                    status, content = 206, content[start:stop]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

        return Handler


def _oid(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def commit_of(files: dict[str, bytes]) -> str:
    return _oid("".join(f"{name} {_oid(files[name])}\n" for name in sorted(files)).encode())


def to_json(value: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def not_found(code: str) -> Answer:
    return 404, {"X-Error-Code": code, "X-Error-Message": code}, b"{}"


def _tree(files: dict[str, bytes], folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    entries: dict[str, dict[str, Any]] = {}
    for name in sorted(files):
        if not name.startswith(prefix):
            continue
        parts = name.removeprefix(prefix).split("/")
        for depth in range(1, len(parts)):
            path = prefix + "/".join(parts[:depth])
            if depth == 1 or recursive:
                entries[path] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
        if len(parts) == 1 or recursive:
            entries[name] = _entry(files, name)
    return list(entries.values())


def _entry(files: dict[str, bytes], name: str) -> dict[str, Any]:
    content = files[name]
    return {"type": "file", "oid": _oid(content), "size": len(content), "path": name}


def _path_info(files: dict[str, bytes], path: str) -> list[dict[str, Any]]:
    if path in files:
        return [_entry(files, path)]
    if any(name.startswith(f"{path}/") for name in files):
        return [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path}]
    return []


def _asked_paths(body: bytes) -> list[str]:
    try:
        paths = json.loads(body)["paths"]
    except ValueError:
        paths = parse_qs(body.decode())["paths"]
    return [paths] if isinstance(paths, str) else list(paths)
