"""What was added holds, in the order of its time, whatever is folded when."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.interpretations import tables
from harvest_assets.interpretations.entries import Edit, Label, Score
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets_tests.interpretations.some_entries import KEYS, at, label, score

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(
    lambda text: text.split()
)
tags = st.text(st.sampled_from("abcé"), min_size=1)
keys = st.sampled_from(KEYS)
edited = st.one_of(
    st.tuples(st.just("label"), texts | st.just("")),
    st.tuples(st.just("note"), texts),
    st.tuples(st.just("starred"), st.booleans()),
    st.tuples(st.just("tags"), st.lists(tags, max_size=3, unique=True).map(tuple)),
)
unordered = st.one_of(
    st.tuples(st.just("label"), keys, texts, st.sampled_from(["model", "person", "import"])),
    st.tuples(st.just("score"), keys, st.sampled_from(["intruder", "fuzzing"]), st.floats(0, 1)),
    st.tuples(st.just("edit"), keys, edited, st.none()),
)
batches = st.lists(st.one_of(st.just("fold"), st.lists(unordered, max_size=3)), max_size=8)


def made(what, minute: int):
    kind, key, one, other = what
    if kind == "label":
        return label(key, one, minute, other)
    if kind == "score":
        return score(key, one, other, minute)
    return Edit(key, one[0], one[1], "p", at(minute))


def by_loops(entries: list) -> dict[str, dict]:
    """What holds now, from entries by rising time."""
    rows: dict[str, dict] = {}
    for entry in entries:
        row = rows.setdefault(
            entry.component_key, {"person": "", "other": None, "starred": False, "tags": []}
        )
        if isinstance(entry, Label):
            row["person" if entry.source == "person" else "other"] = entry.label
        elif isinstance(entry, Score):
            row[f"score_{entry.method}"] = entry.score
        elif entry.field == "label":
            row["person"] = entry.value
        else:
            row[entry.field] = list(entry.value) if entry.field == "tags" else entry.value
    return rows


def after_replaced(entry, earlier: list):
    """With the time that it is kept with: a person's value follows the one that it replaces."""

    def field(it) -> tuple:
        by_person = isinstance(it, Edit) or getattr(it, "source", "") == "person"
        return it.component_key, by_person and getattr(it, "field", "label")

    times = [it.written_at for it in earlier if field(it) == field(entry)]
    if not field(entry)[1] or not times or entry.written_at > max(times):
        return entry
    return replace(entry, written_at=max(times) + timedelta(microseconds=1))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches=batches, data=st.data())
def test_any_order_of_adding_and_folding(paths: HarvestLayout, batches, data):
    shutil.rmtree(paths.root)
    paths.root.mkdir()
    stored = Interpretations(paths)
    n = sum(len(batch) for batch in batches if batch != "fold")
    minutes = data.draw(st.permutations(range(n)))
    entries = []
    for batch in batches:
        if batch == "fold":
            stored.fold()
            continue
        new = [made(what, minutes[len(entries) + i]) for i, what in enumerate(batch)]
        stored.add(new)
        entries += [after_replaced(entry, entries) for entry in new]
    entries.sort(key=lambda entry: entry.written_at)
    history = stored.history()
    assert history.problems == ()
    assert history.labels["label"].to_list() == [e.label for e in entries if isinstance(e, Label)]
    assert history.scores["score"].to_list() == [e.score for e in entries if isinstance(e, Score)]
    values = [json.loads(json.dumps(e.value)) for e in entries if isinstance(e, Edit)]
    assert [json.loads(value) for value in history.edits["value"]] == values
    found = {row["component_key"]: row for row in stored.current().to_dicts()}
    expected = by_loops(entries)
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        assert found[key]["label"] == (row.pop("person") or row["other"])
        row.pop("other")
        for name, value in row.items():
            assert found[key][name] == value


def test_a_label_of_a_person_comes_first_until_it_is_taken_back(paths: HarvestLayout):
    stored = Interpretations(paths)
    stored.add([Edit(KEYS[0], "label", "mine", "Ann", at(0)), label(KEYS[0], "newer", 1)])
    row = stored.current().row(0, named=True)
    assert (row["label"], row["label_source"], row["label_author"]) == ("mine", "person", "Ann")
    assert row["confidence"] is None
    stored.add([Edit(KEYS[0], "label", "", "Ann", at(2))])
    row = stored.current().row(0, named=True)
    assert (row["label"], row["label_source"], row["confidence"]) == ("newer", "model", 0.5)


def test_an_edit_replaces_one_by_a_clock_that_is_ahead(paths: HarvestLayout):
    stored = Interpretations(paths)
    stored.add([Edit(KEYS[0], "note", "ahead", "Ann", at(60)), label(KEYS[0], "l", 60, "person")])
    stored.add(
        [Edit(KEYS[0], "note", "later", "Bob", at(0)), Edit(KEYS[0], "label", "m", "B", at(0))]
    )
    stored.add([Edit(KEYS[1], "note", "other", "Bob", at(0))])
    first, second = stored.current().to_dicts()
    assert (first["note"], first["label"], second["note"]) == ("later", "m", "other")
    assert stored.edits().filter(pl.col("component_key") == KEYS[1])["written_at"][0] == at(0)
    stored.fold()
    stored.add([Edit(KEYS[0], "note", "last", "Ann", at(1))])
    assert stored.current()["note"].to_list() == ["last", "other"]


def test_scores_of_another_label_do_not_hold(paths: HarvestLayout):
    stored = Interpretations(paths)
    stored.add([label(KEYS[0], "one"), label(KEYS[1], "other"), score(KEYS[0], "intruder", 0.7)])
    stored.add([score(KEYS[0], "detection", 0.9, 1, "one"), score(KEYS[2], "fuzzing", 0.8, 1, "x")])
    stored.add([score(KEYS[0], "detection", 0.1, 2, "two")])

    def scores(place: int) -> list:
        row = stored.current().row(place, named=True)
        return [row[f"score_{name}"] for name in ("detection", "fuzzing", "intruder")]

    assert scores(0) == [0.9, None, 0.7]
    assert scores(2) == [None, None, None]
    stored.add([Edit(KEYS[0], "label", "two", "Ann", at(3))])
    assert scores(0) == [0.1, None, 0.7]
    stored.add([Edit(KEYS[0], "label", "three", "Ann", at(4))])
    assert scores(0) == [None, None, 0.7]


def test_what_is_about_another_checkpoint_stays_history(paths: HarvestLayout):
    stored = Interpretations(paths)
    stored.add([label(KEYS[2], "before anything was recorded")])

    def harvest_checkpoint(digest: str) -> None:
        paths.activation_contexts.mkdir(exist_ok=True)
        paths.config.write_text(json.dumps({"checkpoint_sha256": digest}))

    harvest_checkpoint("a" * 64)
    stored.add([label(KEYS[0], "of a"), score(KEYS[0], "intruder", 0.5)])
    assert stored.history().problems == ()
    harvest_checkpoint("b" * 64)
    stored.add([label(KEYS[1], "of b")])
    for _ in range(2):
        with pytest.warns(UserWarning, match="2 entries .* another checkpoint"):
            assert stored.current()["component_key"].to_list() == [KEYS[1], KEYS[2]]
        assert len(stored.history().labels) == 3
        stored.fold()
    harvest_checkpoint("a" * 64)
    assert stored.history().current()["component_key"].to_list() == [KEYS[0], KEYS[2]]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), pa.ArrowInvalid("x")])
def test_what_is_kept_is_not_reported_as_lost(
    paths: HarvestLayout, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def full(path: Path, _table: pa.Table) -> None:
        path.write_bytes(b"half")
        raise error

    stored = Interpretations(paths)
    monkeypatch.setattr(tables, "write", full)
    stored.add([label(KEYS[0], f"{i}") for i in range(2_500)])
    assert len(stored.labels()) == 2_500
    assert not list(paths.interpretations.glob("**/*.tmp"))


def test_a_large_addition_is_folded_at_once(paths: HarvestLayout):
    stored = Interpretations(paths)
    stored.add([label(KEYS[0], f"{i}") for i in range(2_500)])
    assert not list(paths.interpretation_entries.iterdir())
    assert len(stored.labels()) == 2_500
