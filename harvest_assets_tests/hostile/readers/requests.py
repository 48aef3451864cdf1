"""Readers of names and of requests to the viewer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout, viewer_cache_root
from harvest_assets.interpretations.lists import ComponentList, keep
from harvest_assets.live.ablation import AblateAnswer
from harvest_assets.live.kind import Answer, Kind, Question
from harvest_assets.live.prompt import PromptAnswer
from harvest_assets.live.weights import WeightsAnswer
from harvest_assets.store.harvest_name import HarvestReference, parse_harvest
from harvest_assets.viewer import asking
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.derived import compute, folder_of
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
        page = self.PAGES[content[0] % len(self.PAGES)] if content else "/"
        rest = content[1:]
        path, query = (page, rest) if page else (rest.decode("latin-1").partition("?")[0], b"")
        status, body = self._loop.run_until_complete(self._ask(path, query))
        assert status in (200, 202, 307, 400, 404, 405), status
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


class _Live:
    """In place of a live model: an answer of fixed numbers to whatever may be asked."""

    def ask(self, _paths: HarvestLayout, kind: Kind[Any, Any], question: Question) -> Answer:
        sent = json.loads(json.dumps(question.model_dump(mode="json")))
        assert kind.question(**sent) == question
        likely = [{"token_id": 3, "probability": 0.5}]
        firing = [{"component": "h.0.mlp.c_fc:1", "strength": 0.5, "second": None}]
        at = {"token_id": 1, "n_firing": 1, "firing": firing, "predictions": likely}
        changed = {"kl": 0.5, "predictions": likely, "gains": [], "losses": []}
        model = {"mean_kl": 0.5, "positions": [changed]}
        there = {"component": "no:<b>", "n_firings": 1, "strength": 0.5, "position": 0}
        side = {"of": "tokens", "highest": [{"token_id": 31, "value": 2.0}], "lowest": []}
        answers: dict[str, Answer] = {
            "prompt": PromptAnswer(
                positions=[at | {"strength": 0.5}],
                n_components=1,
                components=[there],
                threshold=0.0,
            ),
            "ablate": AblateAnswer(
                positions=[{name: at[name] for name in ("token_id", "n_firing", "predictions")}],
                changed=model,
                ci_masked=model,
                n_components=1,
                firing=[there],
            ),
            "weights": WeightsAnswer(
                component="a:<i>",
                target="T",
                reads=side,
                writes=None,
                same_layer=[],
                other_layers=[],
                n_other_layers=0,
            ),
        }
        return answers[kind.name]

    def is_open(self, _paths: HarvestLayout) -> bool:
        return True

    def close(self) -> None:
        pass


class AskingAddress(Address):
    """A request to the pages and the JSON that ask, search or describe."""

    PAGES = (
        "/run/small/prompt",
        "/api/run/small/prompt",
        "/run/small/ablate",
        "/api/run/small/ablate",
        "/run/small/weights/h.0.mlp.c_fc:0",
        "/api/run/small/weights/h.0.mlp.c_fc:0",
        "/run/small/contexts",
        "/api/run/small/contexts",
        "/run/small/map",
        "/api/run/small/map",
        "/api/run/small/components",
        "/api/run/small/component/h.0.mlp.c_fc:0",
        "/run/small/jump",
        "/run/small/random",
        "/methods",
        "/api/methods",
        "/switch",
        "",
    )

    def __init__(self, folder: Path) -> None:
        patched, asking.LiveModel = asking.LiveModel, _Live  # type: ignore[assignment,misc]
        try:
            super().__init__(folder)
        finally:
            asking.LiveModel = patched  # type: ignore[misc]
        harvest = Library().get("small")
        for kind in ("contexts", "map"):
            compute(harvest, kind, folder_of(viewer_cache_root(), harvest, kind), lambda _: None)
        keep(HarvestLayout.of("small"), ComponentList("mine", "small", ("h.0.mlp.c_fc:0",)))

    def seeds(self) -> list[bytes]:
        text = b"text=one%20two&at=0&component=h.0.mlp.c_fc%3A0&top=3&text_b=x&ids_b=&at_b=-1"
        ablate = b"text=one&key=h.0.mlp.c_fc%3A0&mode=without&list=mine&with_rest=1&at=-1&top=2"
        more = (
            *(text, b"ids=1%2C2&at=0&top=3&predictions=2", ablate, b"ids=1&only=a:1&at=0&top=7"),
            *(b"", b"top=3", b"q=t1t2&case=1&page=2", b"q=%22t1%22&page=1", b"colour=star"),
            *(b"colour=density", b"q=mlp&min=0.1%25&sort=density&page=2&dead=1&listed=mine"),
            *(b"reads_by=pmi&examples=ci&page=2", b"q=0.mlp", b"layer=h.0.mlp.c_fc&max=1"),
            *(b"run_a=small&run_b=small", b"run_a=small&run_b=no&n_pairs=3", b"run=small"),
            b"/api/run/small/component/h.0.mlp.c_fc:1?page=9",
        )
        return [bytes([i]) + query for i, query in enumerate(more)]
