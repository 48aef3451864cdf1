"""Readers of names and of requests to the viewer."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from harvest_assets.errors import HarvestError
from harvest_assets.store.harvest_name import HarvestReference, parse_harvest
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets.wandb_client.run_name import RunName
from harvest_assets_tests.hostile.readers.reader import Reader
from harvest_assets_tests.viewer.synthetic import write_harvest


class Name(Reader):
    """What people give as the name of a run."""

    def seeds(self) -> list[bytes]:
        return [
            b"goodfire/spd/s-d2ec3bfe",
            b"wandb:goodfire/spd/runs/s-d2ec3bfe",
            b"https://wandb.ai/goodfire/spd/runs/s-d2ec3bfe?nw=1#x",
            b"./a/../model_3.pth",
            b"goodfire/spd/s-d2ec3bfe@dense",
        ]

    def read(self, content: bytes) -> None:
        from harvest_assets.loaders import load_activation_contexts_summary

        text = content.decode("utf-8", "surrogateescape")
        with contextlib.suppress(HarvestError):
            load_activation_contexts_summary(text)
        harvest = parse_harvest(text)
        name = harvest.run.name
        assert RunName.from_key(name.key) == name
        assert HarvestReference.from_key(harvest.key).key == harvest.key
        for part in (name.entity, name.project, name.run_id, harvest.default_folder):
            assert Path(part).name == part
            assert len(part.encode()) <= 200


class Address(Reader):
    """A request to the viewer: the first byte chooses the page, the rest is the query."""

    PAGES = (
        "/run/small",
        "/run/small/component/h.0.mlp.c_fc:0",
        "/compare",
        "/run/small/table.csv",
        "/run/small/export.html",
        "/run/small/version",
        "/",
        "",
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        os.environ["SPD_OUT_DIR"] = str(folder)
        if not (folder / "harvest").exists():
            write_harvest(folder / "harvest" / "small", [f"t{i}" for i in range(32)], 40, 3)
        self._app = make_app(Library(), "small")
        self._loop = asyncio.new_event_loop()

    def seeds(self) -> list[bytes]:
        queries = [
            b"\0q=mlp&token=t1&layer=h.0.mlp.c_fc&min=0.1%25&max=1e-3&dead=1&sort=density&page=2",
            b"\1reads_by=pmi&predicts_by=lift&fires_by=pmi&examples=ci&shade=act&lines=full",
            b"\2run_a=small&a=h.0.mlp.c_fc%3A0&run_b=small&b=h.1.mlp.c_fc%3A1",
            b"\3key=h.0.mlp.c_fc%3A0&key=h.0.mlp.c_fc%3A1",
            b"\4key=h.0.mlp.c_fc%3A0",
        ]
        return [*queries, b"\7/run/small/component/h.0.mlp.c_fc:0?page=9", b"\7/static/../x"]

    def read(self, content: bytes) -> None:
        page, rest = self.PAGES[content[0] % 8] if content else "/", content[1:]
        path, query = (page, rest) if page else (rest.decode("latin-1").partition("?")[0], b"")
        status, body = self._loop.run_until_complete(self._ask(path, query))
        assert status in (200, 307, 400, 404, 405), status
        if status == 200:
            assert b"root:x:0" not in body
        elif status in (400, 404):
            raise HarvestError("refused")

    async def _ask(self, path: str, query: bytes) -> tuple[int, bytes]:
        messages = []

        async def receive() -> dict:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict) -> None:
            messages.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode("utf-8", "replace"),
            "root_path": "",
            "query_string": query,
            "headers": [(b"host", b"127.0.0.1:3100")],
            "client": ("127.0.0.1", 9),
            "server": ("127.0.0.1", 3100),
        }
        await self._app(scope, receive, send)
        body = b"".join(message.get("body", b"") for message in messages)
        return messages[0]["status"], body
