"""Sharing: packing, unpacking, exports in other formats, and the import of one of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from harvest_assets.autointerp import answers
from harvest_assets.autointerp.answers import Question
from harvest_assets.autointerp.prompts import Prompt
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.manifest import disagreements
from harvest_assets.interpretations.entries import Label
from harvest_assets.interpretations.exchange import transfer
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets.sharing import archive, exporting, harvest_db, harvest_db_import, receive
from harvest_assets_tests.faults.kills import Victim
from harvest_assets_tests.faults.processes import Point, from_child
from harvest_assets_tests.faults.small_harvest import SmallHarvest

NAME, UNPACKED, IMPORTED = "x-aaaaaaaa", "unpacked", "imported"
_TABLES = ("labels.csv", "labels.db", "labels")  # the last one is a folder, for delphi
_N_PROMPTS = 2000


class SharingVictim(Victim):
    """Everything once; what is at its destination is not made again."""

    points = (
        Point("packing", archive, "_add"),
        Point("unpacking", archive._Reader, "extract"),
        Point("checking what was received", receive, "_check"),
        Point("publishing what was received", receive, "publish"),
        Point("export", exporting, "temporary_beside"),
        Point("rows of an export", harvest_db, "_row"),
        Point("import of harvest.db", harvest_db_import, "write_contexts"),
        Point("publishing an import", harvest_db_import, "publish"),
        Point("labels export", transfer, "export_file"),
        Point("prompts export", answers, "export_questions"),
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._paths = HarvestLayout.of(NAME)
        self._sent, self._received = folder / "sent", folder / "received"
        self._right = from_child(self._made)

    def _made(self) -> dict[str, dict[str, bytes]]:
        SmallHarvest(self._paths.root).run()
        Interpretations(self._paths).add(
            Label(f"h.0.mlp:{i}", f"label {i}", 0.5, "", "person", "me") for i in range(9)
        )
        harvest_db.export(self._paths, self._received, (), lambda *_: None)
        self.work()
        return self._files()

    def begin(self, *, over_old: bool) -> None:  # noqa: ARG002 - nothing is replaced
        shutil.rmtree(self._sent, ignore_errors=True)
        self._sent.mkdir()
        for name in (UNPACKED, IMPORTED):
            shutil.rmtree(HarvestLayout.of(name).root, ignore_errors=True)

    def work(self) -> None:
        packed, prompts = self._sent / "harvest.tar.zst", self._sent / "prompts.jsonl"
        if not packed.exists():
            archive.pack(self._paths, packed, lambda *_: None)
        archive.unpack(packed, UNPACKED, lambda *_: None)
        if not list(self._sent.glob("h-*")):
            harvest_db.export(self._paths, self._sent, (), lambda *_: None)
        if not HarvestLayout.of(IMPORTED).root.exists():
            harvest_db_import.import_harvest(
                self._received, None, IMPORTED, lambda *_: None, lambda *_: None
            )
        for name in _TABLES:
            if not (self._sent / name).exists():
                form = "delphi" if name == "labels" else None
                transfer.export_file(self._paths, self._sent / name, form)
        if not prompts.exists():
            questions = (
                Question("h.0.mlp:0", Prompt("label it", f"text {i}"), "label", 1)
                for i in range(_N_PROMPTS)
            )
            answers.export_questions(questions, prompts)

    def after_kill(self) -> Iterator[str]:
        """What is at a destination is whole."""
        for name, files in self._files().items():
            if wrong := [it for it in self._right[name] if files.get(it) != self._right[name][it]]:
                yield f"{name} is not whole: {wrong}"

    def after_rerun(self) -> Iterator[str]:
        yield from self.after_kill()
        if missing := self._right.keys() - self._files().keys():
            yield f"missing: {missing}"
        for name in (UNPACKED, IMPORTED):
            yield from disagreements(HarvestLayout.of(name), deep=True)
        yield from self.leftovers()

    def _files(self) -> dict[str, dict[str, bytes]]:
        """The contents of all destinations that are there."""
        places = {
            "h": next(self._sent.glob("h-*"), Path("/nowhere")),
            **{name: HarvestLayout.of(name).root for name in (UNPACKED, IMPORTED)},
            **{name: self._sent / name for name in ("harvest.tar.zst", "prompts.jsonl", *_TABLES)},
        }
        return {
            name: {
                path.relative_to(place).as_posix(): path.read_bytes()
                for path in ([place] if place.is_file() else place.rglob("*"))
                if path.is_file()
            }
            for name, place in places.items()
            if place.exists()
        }
