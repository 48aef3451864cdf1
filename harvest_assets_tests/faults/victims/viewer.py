"""What the viewer computes: the context index and the map, in the process that computes them."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from starlette.testclient import TestClient

from harvest_assets.files.layout import HarvestLayout, viewer_cache_root
from harvest_assets.viewer import derived
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.component_map import build as map_build
from harvest_assets.viewer.contexts import build as contexts_build
from harvest_assets.viewer.library import Library
from harvest_assets_tests.faults.kills import Victim
from harvest_assets_tests.faults.processes import Point, from_child
from harvest_assets_tests.viewer.hostile import TEXTS
from harvest_assets_tests.viewer.synthetic import write_harvest

NAME = "work"
KINDS = ("map", "contexts")
ADDRESSES = (f"/api/run/{NAME}/map", f"/api/run/{NAME}/contexts?q=a")


class ViewerVictim(Victim):
    """After the kills a visit computes what is missing; folders of an older harvest are there."""

    points = (
        Point("preparing a folder", derived, "sweep"),
        Point("map", map_build, "build"),
        Point("context index", contexts_build, "build"),
        Point("arrays of a folder", np, "save"),
        Point("texts of the contexts", contexts_build, "_write_texts"),
        Point("removing older folders", derived, "remove"),
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from_child(lambda: write_harvest(HarvestLayout.of(NAME).root, TEXTS, 40, 15).root)
        self._cache = viewer_cache_root() / NAME
        self._right = from_child(lambda: (self._visited(), self._files()))

    def begin(self, *, over_old: bool) -> None:  # noqa: ARG002 - they are always there
        shutil.rmtree(self._cache, ignore_errors=True)
        for kind in KINDS:
            older = self._cache / f"{kind}-of-another-harvest"
            older.mkdir(parents=True)
            for name in ("a", "b", "c"):
                (older / name).touch()

    def work(self) -> None:
        harvest = Library().get(NAME)
        for kind in KINDS:
            folder = derived.folder_of(self._cache.parent, harvest, kind)
            if not folder.exists():
                with redirect_stdout(io.StringIO()):
                    assert derived.main(kind, NAME, str(folder)) == 0

    def after_kill(self) -> Iterator[str]:
        found, right = self._files(), self._right[1]
        for folder, files in found.items():
            if files not in ({}, right.get(folder)):
                yield f"half a folder is there: {folder}"

    def rerun(self) -> None:
        self._visited()

    def after_rerun(self) -> Iterator[str]:
        if (self._visited(), self._files()) != self._right:
            yield "a visit finds something else"
        yield from self.leftovers()

    def _files(self) -> dict[str, dict[str, bytes]]:
        """The content of all folders that may be used."""
        return {
            folder.name: {path.name: path.read_bytes() for path in folder.iterdir()}
            for folder in self._cache.iterdir()
            if not folder.name.startswith(".") and not folder.name.endswith("-of-another-harvest")
        }

    def _visited(self) -> list[object]:
        """What a client gets, in the end; the folders are computed by processes of their own."""
        client = TestClient(make_app(Library(), NAME), base_url="http://127.0.0.1:3100")
        found = []
        for address in ADDRESSES:
            while (answer := client.get(address)).status_code == 202:
                time.sleep(0.05)
            assert answer.status_code == 200, answer.text
            found.append(answer.json())
        return found
