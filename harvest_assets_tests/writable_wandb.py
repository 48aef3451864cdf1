"""The loopback W&B with what its client needs to log artifacts and to download them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from harvest_assets_tests.loopback_wandb import LoopbackWandb, operation_of

_TIME = "2025-01-01T00:00:00Z"


@dataclass
class Version:
    """A version of an artifact.

    Args:
        manifest: what the client stored as such: digest and size by path, and more.
    """

    entity: str
    project: str
    name: str
    number: int
    manifest: bytes = b""
    committed: bool = False

    @property
    def id(self) -> str:
        return f"{self.entity}-{self.project}-{self.name}-{self.number}"

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        return json.loads(self.manifest)["contents"]


class WritableWandb(LoopbackWandb):
    """The server; use it in a `with` statement.

    Attributes:
        versions: of all artifacts, in order.
        objects: files by digest.
        paths: of files, by the last part of their addresses.
        fetched, sent: paths of files that were downloaded or uploaded, in order.
        on_file: called with the path of each file before it is sent or stored; where it answers a
            status, that is sent instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self.versions: list[Version] = []
        self.objects: dict[str, bytes] = {}
        self.paths: dict[str, str] = {}
        self.fetched: list[str] = []
        self.sent: list[str] = []
        self.on_file: Callable[[str], int | None] = lambda _path: None

    def files(self, number: int = -1) -> dict[str, bytes]:
        """The content of a version, by path."""
        entries = self.versions[number].entries
        return {path: self.objects[entry["digest"]] for path, entry in entries.items()}

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        method = getattr(self, f"_{operation_of(query)}", None)
        if method is None:
            return super().answer(query, variables)
        self.operations.append((operation_of(query), variables))
        return method(variables.get("input") or variables)

    def _ServerFeaturesQuery(self, _asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def _GetDefaultEntity(self, _asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"viewer": {"id": "dXNlcg==", "entity": "tester"}}

    def _UpsertBucket(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        entity = {"id": "ZQ==", "name": asked["entity"]}
        project = {"id": "cA==", "name": asked["project"], "entity": entity}
        bucket = {"id": "cnVu", "name": asked["name"], "displayName": "", "project": project}
        more = {"description": None, "config": None, "sweepName": None, "historyLineCount": 0}
        return {"upsertBucket": {"bucket": {**bucket, **more}, "inserted": True}}

    def _CreateRunFiles(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        files = [{"name": it, "uploadUrl": f"{self.url}/run/{it}"} for it in asked["files"]]
        return {"createRunFiles": {"runID": "cnVu", "uploadHeaders": [], "files": files}}

    def _ArtifactType(self, _asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"project": None}

    def _CreateArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        place = (asked["entityName"], asked["projectName"], asked["artifactCollectionName"])
        number = sum((it.entity, it.project, it.name) == place for it in self.versions)
        version = Version(*place, number)
        self.versions.append(version)
        found = {"id": version.id, "state": "PENDING"}
        return {"createArtifact": {"artifact": {**found, "artifactSequence": {}}}}

    def _CreateArtifactManifest(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        url = f"{self.url}/manifest/{asked['artifactID']}"
        file = {"id": "Rg==", "uploadUrl": url, "uploadHeaders": []}
        manifest = {"id": asked["artifactID"], "file": file}
        return {"createArtifactManifest": {"artifactManifest": manifest}}

    def _CreateArtifactFiles(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        """Where to send each file that is not here."""
        edges = []
        for file in asked["artifactFiles"]:
            digest = file["md5"]
            self.paths[digest.replace("/", "_")] = file["name"]
            known = digest in self.objects
            node = {
                "storagePath": digest,
                "uploadUrl": None if known else f"{self.url}/store/{digest.replace('/', '_')}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self._by_id(asked["artifactID"]).committed = True
        return {"commitArtifact": {"artifact": {"id": asked["artifactID"], "digest": "d"}}}

    def _ArtifactByID(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"artifact": self._node(self._by_id(asked["id"]))}

    def _ArtifactMembershipByName(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        name, _, alias = asked["name"].partition(":")
        version = self._find(asked["entity"], asked["project"], name, alias)
        if version is None:
            return {"project": {"artifactCollectionMembership": None}}
        node = self._node(version)
        membership = {
            "__typename": "ArtifactCollectionMembership",
            "id": "bQ==",
            "versionIndex": version.number,
            "createdAt": _TIME,
            "aliases": [],
            "artifactCollection": node["artifactSequence"],
            "artifact": node,
        }
        return {"project": {"artifactCollectionMembership": membership}}

    def _FetchArtifactManifest(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        url = f"{self.url}/manifest/{asked['id']}"
        return {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}

    def _GetArtifactMembershipFileUrls(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        place = (asked["entity"], asked["project"], asked["collection"], asked["alias"])
        version = self._find(*place)
        assert version is not None
        nodes = []
        for path, entry in version.entries.items():
            url = f"{self.url}/store/{entry['digest'].replace('/', '_')}"
            self.paths[entry["digest"].replace("/", "_")] = path
            nodes.append({"node": {"__typename": "File", "name": path, "directUrl": url}})
        end = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        membership = {"files": {"pageInfo": end, "edges": nodes}}
        collection = {"__typename": "ArtifactSequence", "artifactMembership": membership}
        return {"project": {"artifactCollection": collection}}

    def _find(self, entity: str, project: str, name: str, alias: str) -> Version | None:
        found = [
            it
            for it in self.versions
            if (it.entity, it.project, it.name) == (entity, project, name) and it.committed
        ]
        if alias in ("", "latest"):
            return found[-1] if found else None
        return next((it for it in found if f"v{it.number}" == alias), None)

    def _by_id(self, number: str) -> Version:
        return next(it for it in self.versions if it.id == number)

    def _node(self, version: Version) -> dict[str, Any]:
        project = {
            "id": "cA==",
            "internalId": "aW50",
            "name": version.project,
            "entity": {"name": version.entity},
        }
        sequence = {"__typename": "ArtifactSequence", "name": version.name, "project": project}
        return {
            "__typename": "Artifact",
            "id": version.id,
            "artifactSequence": sequence,
            "versionIndex": version.number,
            "artifactType": {"name": "harvest"},
            "description": None,
            "metadata": "{}",
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": "COMMITTED",
            "size": str(sum(it["size"] for it in version.entries.values())),
            "digest": "d",
            "commitHash": "c",
            "fileCount": len(version.entries),
            "createdAt": _TIME,
            "updatedAt": None,
            "aliases": [],
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        loopback = self

        class Handler(super()._handler()):  # type: ignore[misc]
            def do_PUT(self) -> None:  # noqa: N802
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self._send(loopback.store(self.path, body), b"", "text/plain")

            def do_GET(self) -> None:  # noqa: N802
                status, content = loopback.fetch(self.path)
                with suppress(BrokenPipeError, ConnectionResetError):  # the client was killed
                    self._send(status, content, "application/octet-stream")

        return Handler

    def store(self, path: str, body: bytes) -> int:
        """Store an upload; the status to answer."""
        _, kind, name = path.partition("?")[0].split("/", 2)
        if kind == "manifest":
            self._by_id(name).manifest = body
        elif kind == "store":
            status = self.on_file(self.paths[name])
            if status is not None:
                return status
            self.sent.append(self.paths[name])
            self.objects[name.replace("_", "/")] = body
        return 200

    def fetch(self, path: str) -> tuple[int, bytes]:
        """Status and content of a download."""
        _, kind, name = path.partition("?")[0].split("/", 2)
        if kind == "artifactsV2":  # region, entity, project, name, id, digest, path
            digest = base64.b64encode(bytes.fromhex(name.split("/")[5])).decode()
            kind, name = "store", digest.replace("/", "_")
        if kind == "manifest":
            return 200, self._by_id(name).manifest
        digest = name.replace("_", "/")
        if kind != "store" or digest not in self.objects:
            return 404, b""
        status = self.on_file(self.paths[name])
        self.fetched.append(self.paths[name])
        return status or 200, self.objects[digest] if status is None else b""
