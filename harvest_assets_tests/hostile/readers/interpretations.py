"""Readers of labels, scores, notes and lists, and of files to import them from."""

from __future__ import annotations

import json
from pathlib import Path

from harvest_assets.files.records import Record
from harvest_assets.interpretations import entry_files
from harvest_assets.interpretations.entries import Edit, Label, Score
from harvest_assets.interpretations.entry_files import Entries
from harvest_assets.interpretations.exchange import autointerp_db, csv_table, neuronpedia
from harvest_assets.interpretations.exchange.imported import Imported
from harvest_assets.interpretations.exchange.transfer import FORMATS, _format_by_content
from harvest_assets.interpretations.lists import ComponentList, keep, list_titles, open_list
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets_tests.hostile.readers.of_harvest import OfHarvest
from harvest_assets_tests.hostile.readers.reader import put, put_sealed

_KEY = "h.0.mlp:3"
_ENTRIES = (
    Label(_KEY, "weather", 0.5, "it rains", "model", "m", "0" * 64),
    Label("h.0.mlp:4", "colours", None, "", "person", "somebody"),
    Score(_KEY, "intruder", 0.7, 0.6, 0.8, 0.2, 10, 1, "m"),
    Edit(_KEY, "tags", ("a", "b"), "somebody"),
    Edit(_KEY, "starred", value=True, author="somebody"),
    Edit(_KEY, "note", "two\nlines", "somebody"),
)


class _Interpreted(OfHarvest):
    """A file below `interpretations`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.stored = Interpretations(self.paths)
        self.stored.add(_ENTRIES)

    def look(self) -> None:
        """Read all, as pages do; what is damaged is a problem, not an error."""
        history = self.stored.history()
        now = history.current()
        assert all(len(problem) < 2000 for problem in history.problems)
        json.dumps([{**row} for row in now.to_dicts()], allow_nan=False)
        for row in now.iter_rows(named=True):
            for text in (row["label"], row["note"], row["reason"], *(row["tags"] or ())):
                assert text is None or not set(text) & set("\x00\x1b\u202e\u2028")


class EntryFile(_Interpreted):
    """A file of entries, sealed."""

    @property
    def file(self) -> Path:
        return self.paths.interpretation_entries / f"20260101T000000000000-{'0' * 32}.json"

    def seeds(self) -> list[bytes]:
        (only,) = entry_files.files_in(self.paths.interpretation_entries)[0]
        content = only.read_bytes()
        only.unlink()
        return [content]

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        self.look()


class LabelTables(_Interpreted):
    """A table of labels, scores or edits; the first byte chooses it."""

    KINDS = ("labels", "scores", "edits")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.stored.fold()

    def _file(self, kind: str) -> Path:
        return self.paths.interpretations / f"{kind}-000001.parquet"

    def seeds(self) -> list[bytes]:
        return [bytes([i]) + self._file(kind).read_bytes() for i, kind in enumerate(self.KINDS)]

    def read(self, content: bytes) -> None:
        kind = self.KINDS[content[0] % 3] if content else "labels"
        file = self._file(kind)
        good = file.read_bytes()
        put(file, content[1:])
        try:
            self.look()
        finally:
            put(file, good)


class ListFile(OfHarvest):
    """A list of components."""

    @property
    def file(self) -> Path:
        return self.paths.interpretation_lists / "mine.json"

    def seeds(self) -> list[bytes]:
        keep(self.paths, ComponentList("mine", "local/a/x-aaaaaaaa", (_KEY, "h.0.mlp:4")))
        return [self.file.read_bytes()]

    def read(self, content: bytes) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        put(self.file, content)
        (title,) = list_titles(self.paths).values()
        assert title.isprintable()
        assert all(isinstance(key, str) for key in open_list(self.paths, "mine").component_keys)


class LabelImport(_Interpreted):
    """A file of another program: a CSV table, a database of autointerp, or JSON."""

    def seeds(self) -> list[bytes]:
        history = self.stored.history()
        found = []
        for n, write in enumerate((csv_table.write, autointerp_db.write, neuronpedia.write)):
            write(self.folder / f"seed{n}", history, "local/a/x-aaaaaaaa")
            found.append((self.folder / f"seed{n}").read_bytes())
        return found

    def read(self, content: bytes) -> None:
        file = put(self.folder / "imported", content)
        imported = Imported(file.name)
        FORMATS[_format_by_content(file)].read(file, imported)
        record: Record[Entries] = entry_files._RECORD
        entries = Entries.of(imported.entries)
        assert record.parse(record.encode(entries)) == entries
