"""Nothing that was added is lost or doubled, whatever happens; and what holds now."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.lease import hold_lease
from harvest_assets.interpretations import tables
from harvest_assets.interpretations.entries import Edit, Label, Score, sha256_of_text
from harvest_assets.interpretations.storage import Interpretations

START = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = ("h.0.mlp:1", "h.0.mlp:2", "h.1.attn:3")


@pytest.fixture
def paths(tmp_path: Path):
    root = tmp_path / "s-1"
    root.mkdir()
    return HarvestLayout(root)


def at(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


def label(key: str, text: str, minute: int = 0, source: str = "model", **more) -> Label:
    values = {"confidence": 0.5, "reason": "seen", "author": "m", **more}
    return Label(key, text, source=source, written_at=at(minute), **values)


def score(key: str, method: str, value: float, minute: int = 0, of: str | None = None) -> Score:
    digest = None if of is None else sha256_of_text(of)
    values = (value, 0.1, 0.9, 0.2, 10, 1, "m")
    return Score(key, method, *values, label_sha256=digest, written_at=at(minute))


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


def _killed_at(nth: int, work) -> bool:
    """Run in a process of its own that is killed before its nth change to the disk."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def count_changes(event: str, args: tuple) -> None:
            nonlocal count
            writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wxa")
            if writes or event in ("os.rename", "os.remove", "os.link", "os.mkdir", "os.utime"):
                count += 1
                if count == nth:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count_changes)
        work()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def test_killed_before_each_change_while_adding_and_folding(paths: HarvestLayout):
    stored = Interpretations(paths)
    expected: list[str] = []

    def add_and_fold() -> None:
        stored.add([label(KEYS[0], f"new {nth}", nth), score(KEYS[0], "intruder", 0.5, nth)])
        stored.fold()

    nth, killed = 1, True
    while killed:
        assert nth < 60
        killed = _killed_at(nth, add_and_fold)
        history = stored.history()
        labels = history.labels["label"].to_list()
        assert history.problems == ()
        assert labels in (expected, [*expected, f"new {nth}"])
        assert len(history.scores) == len(labels)  # both kinds of an addition, or neither
        expected = labels
        nth += 1
    assert nth > 15
    assert len(labels) > 5
    left = [path for path in paths.root.rglob("*") if path.is_file()]
    assert sorted(path.name.partition("-")[0] for path in left) == ["labels", "scores"]


def _add_some(root: Path, name: str, n: int) -> None:
    stored = Interpretations(HarvestLayout(root))
    for i in range(n):
        stored.add([label(KEYS[0], f"{name} {i}"), Edit(KEYS[1], "note", f"{name} {i}", name)])


def _fold_until(root: Path, end: Path) -> None:
    stored = Interpretations(HarvestLayout(root))
    while not end.exists():
        try:
            stored.fold()
        except HarvestError:  # another has the lease
            time.sleep(0.001)


@pytest.mark.slow
def test_many_processes_add_while_others_fold(paths: HarvestLayout, tmp_path: Path):
    context, end = multiprocessing.get_context("spawn"), tmp_path / "end"
    adding = [context.Process(target=_add_some, args=(paths.root, f"p{i}", 15)) for i in range(4)]
    folding = [context.Process(target=_fold_until, args=(paths.root, end)) for _ in range(2)]
    for process in adding + folding:
        process.start()
    stored, seen = Interpretations(paths), 0
    while any(process.is_alive() for process in adding):
        history = stored.history()
        assert history.problems == ()
        assert len(history.labels) >= seen  # a reader never sees less than before
        seen = len(history.labels)
    end.touch()
    for process in adding + folding:
        process.join()
        assert process.exitcode == 0
    expected = sorted(f"p{i} {j}" for i in range(4) for j in range(15))
    assert sorted(stored.labels()["label"]) == expected
    assert sorted(json.loads(value) for value in stored.edits()["value"]) == expected


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


@pytest.mark.parametrize("folds", [1, 2])
def test_a_process_that_was_suspended_while_it_wrote_a_table_drops_nothing(
    paths: HarvestLayout, monkeypatch: pytest.MonkeyPatch, folds: int
):
    stored, write = Interpretations(paths), tables.write
    stored.add([label(KEYS[0], "first")])

    def suspended(path: Path, table: pa.Table) -> None:
        """While this table is written, the lease is taken over and later entries are folded."""
        monkeypatch.setattr(tables, "write", write)
        lease = paths.interpretations_lease
        mine = lease.read_bytes()
        for i in range(folds):
            lease.unlink()
            stored.add([label(KEYS[0], f"later {i}", i + 1)])
            _in_another_process(stored.fold)
            lease.write_bytes(mine)  # even if the check of the lease misses it
        write(path, table)

    monkeypatch.setattr(tables, "write", suspended)
    with pytest.raises(HarvestError, match="another process"):
        stored.fold()
    later = [f"later {i}" for i in range(folds)]
    assert stored.labels()["label"].to_list() == ["first", *later]
    stored.fold()
    stored.add([label(KEYS[0], "last", 10)])
    stored.fold()
    assert stored.labels()["label"].to_list() == ["first", *later, "last"]
    assert len(list(paths.interpretations.glob("labels-*"))) == 1


def _in_another_process(work: Callable[[], None]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def test_fold_leaves_the_work_to_the_owner_of_the_lease(paths: HarvestLayout):
    stored = Interpretations(paths)
    stored.add([label(KEYS[0], "kept")])
    with (
        hold_lease(paths.interpretations_lease, "it"),
        pytest.raises(HarvestError, match="process"),
    ):
        stored.fold()
    assert stored.labels()["label"].to_list() == ["kept"]


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
