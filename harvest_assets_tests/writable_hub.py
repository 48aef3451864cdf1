"""The loopback hub with what its clients need to create datasets and to commit to them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from harvest_assets_tests.loopback_hub import Answer, LoopbackHub, commit_of, to_json

_API = re.compile(r"/api/(datasets)/([^/]+/[^/]+)/(commits|preupload|commit|branch)/(.+)")
_LFS_BYTES = 1000  # from this size on, files are sent as objects of their own
_TAKEN = 409, {"Content-Type": "application/json"}, b"{}"
_OUTDATED = 412, {"Content-Type": "application/json"}, b"{}"
_WRITES = ("/create", "/branch/", "/preupload/", "/commit/", ".git/")


class WritableHub(LoopbackHub):
    """The server; use it in a `with` statement.

    Attributes:
        branches: files by name, by (`datasets`, `owner/name`, branch).
        objects: large files, by digest.
        token: whoever writes must send it.
        on_object: called with the digest of each object before it is stored; where it answers a
            status, that is sent instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self.branches: dict[tuple[str, str, str], dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.token = "hf_" + "s" * 30
        self.on_object: Callable[[str], int | None] = lambda _oid: None

    def respond(self, method: str, path: str, body: bytes, authorization: str) -> Answer:
        """Errors contain what was sent as authorization, as servers do."""
        writes = any(word in path for word in _WRITES)
        if writes and authorization != f"Bearer {self.token}":
            self.requests.append(f"{method} {path}")
            return 401, {"X-Error-Message": f"{authorization} is not known"}, b"{}"
        return super().respond(method, path, body, authorization)

    def files_of(self, kind: str, name: str, revision: str) -> dict[str, bytes] | None:
        """Those of a branch itself, to which a commit adds; the first commit has none."""
        branches = {key[2]: it for key, it in self.branches.items() if key[:2] == (kind, name)}
        branches["main"] = self.repositories[kind, name]
        commits = {commit_of(files): files for files in ({}, *branches.values())}
        return branches.get(revision, commits.get(revision))

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        place = unquote(urlsplit(path).path)
        if method == "PUT":
            return self._store(place.rpartition("/")[2], body)
        if place == "/api/repos/create":
            return self._create(json.loads(body))
        if place == "/api/validate-yaml":
            return to_json({"errors": [], "warnings": []})
        if place.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        api = _API.fullmatch(place)
        return self._write(*api.groups(), body) if api else super().answer(method, path, body)

    def _write(self, kind: str, name: str, what: str, revision: str, body: bytes) -> Answer:
        if what == "branch":
            return self._branch(kind, name, revision, json.loads(body))
        files = self.files_of(kind, name, revision)
        assert files is not None
        if what == "commits":
            return to_json([_commit_info(it) for it in (files, {})])
        if what == "preupload":
            return to_json({"files": [_upload_mode(it) for it in json.loads(body)["files"]]})
        return self._add_commit(name, files, body)

    def _create(self, asked: dict[str, Any]) -> Answer:
        key = (f"{asked['type']}s", f"{asked['organization']}/{asked['name']}")
        taken = key in self.repositories
        self.repositories.setdefault(key, {})
        _, headers, content = to_json({"url": f"{self.url}/{key[0]}/{key[1]}"})
        return 409 if taken else 200, headers, content

    def _branch(self, kind: str, name: str, branch: str, asked: dict[str, Any]) -> Answer:
        if (kind, name, branch) in self.branches:
            return _TAKEN
        start = self.files_of(kind, name, asked.get("startingPoint", "main"))
        self.branches[kind, name, branch] = dict(start or {})
        return to_json({})

    def _batch(self, asked: dict[str, Any]) -> Answer:
        """Where to send each object that is not here."""
        objects = [{"oid": it["oid"], "size": it["size"]} for it in asked["objects"]]
        for it in objects:
            if it["oid"] not in self.objects:
                it["actions"] = {"upload": {"href": f"{self.url}/lfs/{it['oid']}"}}
        return to_json({"transfer": "basic", "objects": objects})

    def _store(self, oid: str, body: bytes) -> Answer:
        status = self.on_object(oid)
        if status is not None:
            return status, {}, b""
        assert hashlib.sha256(body).hexdigest() == oid
        self.objects[oid] = body
        return 200, {}, b""

    def _add_commit(self, name: str, files: dict[str, bytes], body: bytes) -> Answer:
        header, *entries = (json.loads(line) for line in body.splitlines())
        if header["value"].get("parentCommit", commit_of(files)) != commit_of(files):
            return _OUTDATED
        added = {}
        for entry in entries:
            value = entry["value"]
            large = entry["key"] == "lfsFile"
            content = self.objects[value["oid"]] if large else base64.b64decode(value["content"])
            added[value["path"]] = content
        files.update(added)
        commit = commit_of(files)
        url = f"{self.url}/datasets/{name}/commit/{commit}"
        return to_json({"commitUrl": url, "commitOid": commit})


def _commit_info(files: dict[str, bytes]) -> dict[str, Any]:
    date = "2025-01-01T00:00:00.000Z"
    return {"id": commit_of(files), "title": "", "message": "", "date": date, "authors": []}


def _upload_mode(asked: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if asked["size"] >= _LFS_BYTES else "regular"
    return {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False}
