"""Damaged and foreign files are named and harm nothing; what could not be read again is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.interpretations.entries import Edit, Label, Score
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets_tests.interpretations.some_entries import KEYS, label, score


def test_a_table_that_is_a_broken_link_is_named(paths: HarvestLayout):
    stored = Interpretations(paths)
    stored.add([label(KEYS[0], "kept")])
    stored.fold()
    link = paths.interpretations / "labels-000009.parquet"
    link.symlink_to("nowhere")
    stored.add([label(KEYS[1], "new")])
    history = stored.history()
    assert [link.name in problem for problem in history.problems] == [True]
    assert history.labels["label"].to_list() == ["new"]
    with pytest.raises(HarvestError, match=link.name):
        stored.fold()
    link.unlink()
    assert sorted(stored.labels()["label"]) == ["kept", "new"]


def test_damaged_and_foreign_files_are_named_and_harm_nothing(paths: HarvestLayout):
    stored = Interpretations(paths)
    stored.add([label(KEYS[0], "kept")])
    folder = paths.interpretation_entries
    (good,) = folder.iterdir()
    damaged = folder / f"{good.stem[:-1]}{'0' if good.stem[-1] != '0' else '1'}.json"
    damaged.write_bytes(good.read_bytes().replace(b"kept", b"lost"))
    (folder / "notes of mine.txt").write_text("hello")
    with pytest.warns(UserWarning, match=r"digest|notes of mine") as warned:
        assert stored.labels()["label"].to_list() == ["kept"]
    said = [str(warning.message) for warning in warned]
    assert len(said) == 2
    assert any(str(damaged) in text for text in said)
    assert any("notes of mine.txt" in text for text in said)
    stored.fold()
    assert {path.name for path in folder.iterdir()} == {damaged.name, "notes of mine.txt"}
    assert stored.history().labels["label"].to_list() == ["kept"]


@pytest.mark.parametrize("harm", ["cut", "version", "columns", "value"])
def test_a_table_that_cannot_be_read_is_named_and_never_overwritten(
    paths: HarvestLayout, harm: str
):
    stored = Interpretations(paths)
    stored.add([Edit(KEYS[0], "note", "old", "Ann"), label(KEYS[0], "old")])
    stored.fold()
    (path,) = paths.interpretations.glob("edits-*.parquet")
    table = pq.read_table(path)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif harm == "version":
        pq.write_table(table.replace_schema_metadata({"interpretations_version": "2"}), path)
    elif harm == "columns":
        pq.write_table(table.drop_columns("author"), path)
    else:
        wrong = table.set_column(table.column_names.index("value"), "value", [["true"]])
        pq.write_table(wrong, path)
    before = path.read_bytes()
    stored.add([Edit(KEYS[0], "note", "new", "Ann"), label(KEYS[1], "new")])
    history = stored.history()
    assert [str(path) in problem for problem in history.problems] == [True]
    assert sorted(history.labels["label"]) == ["new", "old"]
    assert history.edits["value"].to_list() == ['"new"']
    with pytest.raises(HarvestError, match="edits-"):
        stored.fold()
    assert path.read_bytes() == before
    assert stored.history().edits["value"].to_list() == ['"new"']


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from(["labels", "scores", "edits", "entries"]),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=3
    ),
)
def test_bytes_changed_anywhere_are_reported_or_read_as_they_were(
    paths: HarvestLayout, kind: str, changes: list[tuple[float, int]]
):
    shutil.rmtree(paths.root)
    paths.root.mkdir()
    stored = Interpretations(paths)
    entries = [
        label(KEYS[0], "one"),
        score(KEYS[0], "intruder", 0.5),
        Edit(KEYS[0], "note", "n", "p"),
    ]
    stored.add(entries)
    if kind != "entries":
        stored.fold()
    files = list(paths.interpretation_entries.iterdir())
    (path,) = files or paths.interpretations.glob(f"{kind}-*.parquet")
    before, content = stored.history(), bytearray(path.read_bytes())
    for place, mask in changes:
        content[int(place * len(content))] ^= mask
    path.write_bytes(content)
    history = stored.history()
    same = all(
        getattr(history, it).equals(getattr(before, it)) for it in ("labels", "scores", "edits")
    )
    assert same or history.problems
    history.current()


def test_hidden_characters_are_written_out_and_long_texts_refused():
    assert label(KEYS[0], " two\twords\x1b[31m\u202e\n").label == r"two words\x1b[31m\u202e"
    assert Edit(KEYS[0], "note", "a\r\nb\x00", "Ann").value == "a\nb\\x00"
    assert Edit(KEYS[0], "tags", ("x", " x ", ""), "Ann").value == ("x",)
    for wrong in (
        lambda: label(KEYS[0], "x" * 301),
        lambda: Edit(KEYS[0], "note", "x" * 10_001, "Ann"),
        lambda: Edit(KEYS[0], "tags", tuple(map(str, range(21))), "Ann"),
        lambda: Edit(KEYS[0], "tags", ("x" * 51,), "Ann"),
        lambda: Edit(KEYS[0], "tags", ("a,b",), "Ann"),
        lambda: Edit(KEYS[0], "starred", "yes", "Ann"),
        lambda: label("", "x"),
        lambda: label(KEYS[0], "x", confidence=1.5),
        lambda: score(KEYS[0], "Intruder!", 0.5),
        lambda: score(KEYS[0], "intruder", float("nan")),
        lambda: Score(KEYS[0], "intruder", 0.5, None, None, None, 10.0, 0, "m"),
        lambda: Score(KEYS[0], "intruder", 0.5, None, None, None, 10, 1.0, "m"),
    ):
        with pytest.raises(HarvestError):
            wrong()


def test_joiners_of_letters_and_emoji_stay(paths: HarvestLayout):
    stored, persian, family = (
        Interpretations(paths),
        "\u0645\u06cc\u200c\u0634\u0648\u062f",
        "\U0001f468\u200d\U0001f467",
    )
    stored.add([label(KEYS[0], f"{persian}\u200c"), Edit(KEYS[0], "note", family, "A\u200dnn")])
    for _ in range(2):
        row = stored.current().row(0, named=True)
        assert (row["label"], row["note"]) == (persian, family)
        assert stored.edits()["author"].to_list() == [r"A\u200dnn"]
        stored.fold()
    with pytest.raises(HarvestError, match="empty"):
        label(KEYS[0], " \u200d ")


def test_an_addition_that_could_not_be_read_again_is_refused(paths: HarvestLayout):
    stored = Interpretations(paths)
    with pytest.raises(HarvestError, match="reason"):
        stored.add([label(KEYS[0], "x"), _with_a_wrong_type(label(KEYS[1], "y"))])
    assert not stored.history()


def _with_a_wrong_type(entry: Label) -> Label:
    object.__setattr__(entry, "reason", 1)
    return entry


def test_nothing_is_written_through_a_link_or_without_a_harvest(
    paths: HarvestLayout, tmp_path: Path
):
    paths.interpretations.symlink_to(tmp_path)
    with pytest.raises(HarvestError, match="link"):
        Interpretations(paths).add([label(KEYS[0], "x")])
    missing = HarvestLayout(tmp_path / "s-2")
    with pytest.raises(HarvestError, match="s-2"):
        Interpretations(missing).add([label(KEYS[0], "x")])
    assert not missing.root.exists()
