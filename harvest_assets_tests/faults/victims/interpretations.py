"""Labels, scores, notes and lists: several processes add and fold, and one of them is killed."""

from __future__ import annotations

import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import polars as pl

from harvest_assets.files import atomic, lease
from harvest_assets.files.atomic import write_json
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.lease import LeaseHeldError
from harvest_assets.interpretations import entry_files, generations, lists, storage, tables
from harvest_assets.interpretations.entries import Edit, Label, Score
from harvest_assets.interpretations.exchange import transfer
from harvest_assets.interpretations.lists import ComponentList
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets_tests.faults.kills import Victim
from harvest_assets_tests.faults.processes import Point, in_child, write_line

KEY = "h.0.mlp:0"
IMPORTED = {f"h.1.attn:{i}": f"imported {i}" for i in range(5)}
_ADDED, _READ = 3, 6


class InterpretationsVictim(Victim):
    """Each addition has a text of its own, which is acknowledged once it was kept."""

    points = (
        Point("adding entries", entry_files, "write"),
        Point("renaming entries", atomic, "rename_into_place"),
        Point("lease of the tables", lease, "_create"),
        Point("folding", storage, "sweep"),
        Point("numbered table", tables, "write"),
        Point("removing older tables", generations, "remove_older"),
        Point("list", lists, "keep"),
        Point("labels import", transfer, "changed"),
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._paths = HarvestLayout.of("work")
        self._file, self._acknowledged = folder / "labels.csv", folder / "acknowledged"
        lines = [f"{key},{label}" for key, label in IMPORTED.items()]
        self._file.write_text("\n".join(["component_key,label", *lines]))

    def begin(self, *, over_old: bool) -> None:
        shutil.rmtree(self._paths.root, ignore_errors=True)
        parts = {key: key.split(":") for key in (KEY, *IMPORTED)}
        summary = {
            k: {"layer": a, "component_idx": int(b), "mean_ci": 0.1} for k, (a, b) in parts.items()
        }
        write_json(self._paths.summary, summary)
        self._acknowledged.write_text("")
        if over_old:
            in_child(self._add_and_fold)

    def work(self) -> None:
        self._add_and_fold()
        transfer.import_file(self._paths, self._file)
        title = f"list {uuid.uuid4().hex}"
        lists.keep(self._paths, ComponentList(title, "local/faults/work", (KEY,)))
        write_line(self._acknowledged, title)

    def beside(self) -> Sequence[Callable[[], None]]:
        return self._add_and_fold, self._read_again_and_again

    def after_kill(self) -> Iterator[str]:
        acknowledged = self._acknowledged.read_text().splitlines()
        stored = Interpretations(self._paths)
        history = stored.history()
        yield from history.problems
        labels = history.labels.filter(pl.col("component_key") == KEY)["label"].to_list()
        notes = history.edits["value"].str.json_decode(pl.String).to_list()
        if not Counter(labels) == Counter(notes) == Counter(history.scores["author"]):
            yield "an addition was kept in part"
        titles = list(lists.list_titles(self._paths).values())
        if lost := set(acknowledged) - {*labels, *titles}:
            yield f"{len(lost)} acknowledged additions are lost"
        if any(not title.startswith("list ") for title in titles):
            yield f"a list cannot be read: {titles}"
        imported = history.labels.filter(pl.col("component_key") != KEY)
        found = sorted(imported.select("component_key", "label").rows())
        if found not in ([], sorted(IMPORTED.items())):
            yield f"of the import there is {found}"
        if len(set(labels)) < len(labels):
            yield "an addition is there twice"
        if set(stored.current()["label"]) > {labels[-1] if labels else None, *IMPORTED.values()}:
            yield "another label holds than the newest"

    def after_rerun(self) -> Iterator[str]:
        yield from self.after_kill()
        stored = Interpretations(self._paths)
        kept = set(stored.labels()["label"])
        if not kept >= set(IMPORTED.values()):
            yield "the import is not complete"
        stored.fold()
        if set(stored.labels()["label"]) != kept:
            yield "folding changed the labels"
        yield from self.leftovers()
        left = sorted(it.name for it in self._paths.interpretations.rglob("*.*"))
        if len([name for name in left if not name.startswith("list-")]) != len(storage.KINDS):
            yield f"leftovers in {left}"

    def _add_and_fold(self) -> None:
        stored = Interpretations(self._paths)
        for _ in range(_ADDED):
            text = uuid.uuid4().hex
            label = Label(KEY, text, 0.5, "", "person", text)
            score = Score(KEY, "intruder", 0.5, None, None, None, None, 0, text)
            stored.add([label, score, Edit(KEY, "note", text, text)])
            write_line(self._acknowledged, text)
        with suppress(LeaseHeldError):
            stored.fold()

    def _read_again_and_again(self) -> None:
        """A reader finds all that was acknowledged before, whatever happens meanwhile."""
        for _ in range(_READ):
            acknowledged = self._acknowledged.read_text().splitlines()
            history = Interpretations(self._paths).history()
            found = {*history.labels["label"], *lists.list_titles(self._paths).values()}
            assert set(acknowledged) <= found
            assert history.problems == ()
