"""Files of other programs, made by hand here, imported and exported."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from harvest_assets.cli.main import cli
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.interpretations.entries import Edit, Label, Score
from harvest_assets.interpretations.exchange.transfer import export_file, import_file
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets.loaders import load_components_frame, load_interpretations
from harvest_assets_tests.viewer.synthetic import write_harvest

ONE, TWO, DEAD = "h.0.mlp.c_fc:1", "h.1.mlp.c_fc:0", "h.0.mlp.c_fc:0"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exchange")
    for name in ("s-1", "s-2"):
        write_harvest(out / "harvest" / name, ["a", "b", "c"], 40, 2)
    return out


@pytest.fixture
def paths(out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(out))
    paths = HarvestLayout.of("s-1")
    yield paths
    for name in ("s-1", "s-2"):
        folder = HarvestLayout.of(name).interpretations
        for file in sorted(folder.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        if folder.exists():
            folder.rmdir()


def now(name: str = "s-1") -> dict[str, dict]:
    frame = Interpretations(HarvestLayout.of(name)).current()
    return {row["component_key"]: row for row in frame.to_dicts()}


def autointerp_database(path: Path, rows: list[tuple], scores: list[tuple]) -> Path:
    database = sqlite3.connect(path)
    database.execute(
        "CREATE TABLE interpretations (component_key TEXT PRIMARY KEY, label TEXT NOT NULL, "
        "confidence TEXT NOT NULL, reasoning TEXT NOT NULL, raw_response TEXT NOT NULL, "
        "prompt TEXT NOT NULL)"
    )
    database.execute(
        "CREATE TABLE scores (component_key TEXT NOT NULL, score_type TEXT NOT NULL, "
        "score REAL NOT NULL, details TEXT NOT NULL, PRIMARY KEY (component_key, score_type))"
    )
    database.executemany("INSERT INTO interpretations VALUES (?,?,?,?,?,?)", rows)
    database.executemany("INSERT INTO scores VALUES (?,?,?,?)", scores)
    database.commit()
    database.close()
    return path


def test_a_database_of_the_newer_autointerp(paths: HarvestLayout, tmp_path: Path):
    file = autointerp_database(
        tmp_path / "interp.db",
        [(ONE, "plural nouns", "high", "they are", "{}", "?"), ("x:9", "gone", "low", "", "", "")],
        [(ONE, "intruder", 0.7, '[{"trial": 1}]'), (TWO, "fuzzing", 0.6, "{}")],
    )
    result = import_file(paths, file)
    assert result.unknown == ("x:9",)
    row = now()[ONE]
    assert (row["label"], row["label_source"], row["reason"]) == (
        "plural nouns",
        "import",
        "they are",
    )
    assert row["confidence"] > 0.5
    assert row["score_intruder"] == 0.7
    assert row["label_author"] == "interp.db"
    assert now()[TWO]["score_fuzzing"] == 0.6


def test_changes_of_a_database_that_is_being_written_are_not_missed(
    paths: HarvestLayout, tmp_path: Path
):
    file = autointerp_database(tmp_path / "interp.db", [], [])
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("INSERT INTO scores VALUES (?, 'intruder', 1.0, '')", (ONE,))
    database.commit()
    with pytest.raises(HarvestError, match="-wal"):
        import_file(paths, file)
    database.close()
    assert len(import_file(paths, file).kept.scores) == 1


def test_counts_of_trials_that_are_not_whole(paths: HarvestLayout, tmp_path: Path):
    details = {"low": 0.1, "high": 0.9, "chance": 0.2, "n_trials": 10.0, "n_failed": 0}
    scores = [(ONE, "intruder", 0.7, json.dumps(details))]
    file = autointerp_database(tmp_path / "interp.db", [(ONE, "s", "low", "", "", "")], scores)
    with pytest.raises(HarvestError, match="n_trials"):
        import_file(paths, file)
    assert not Interpretations(paths).history()


def test_a_transaction_that_was_not_finished_is_not_read(paths: HarvestLayout, tmp_path: Path):
    file = autointerp_database(tmp_path / "interp.db", [], [(ONE, "intruder", 0.5, "")])
    (tmp_path / "interp.db-journal").write_bytes(b"\xd9\xd5\x05\xf9 and pages")
    with pytest.raises(HarvestError, match="-journal"):
        import_file(paths, file)
    (tmp_path / "interp.db-journal").write_bytes(b"")
    assert len(import_file(paths, file).kept.scores) == 1


def test_a_small_database_that_computes_long_values(paths: HarvestLayout, tmp_path: Path):
    file = tmp_path / "interp.db"
    database = sqlite3.connect(file)
    database.execute(
        "CREATE TABLE interpretations (component_key TEXT, confidence TEXT, reasoning TEXT, "
        "label AS (hex(zeroblob(2000000))))"
    )
    database.execute("INSERT INTO interpretations VALUES (?, 'high', '')", (ONE,))
    database.commit()
    database.close()
    with pytest.raises(HarvestError, match=r"interp\.db.*too big"):
        import_file(paths, file)


def test_explanations_of_delphi(paths: HarvestLayout, tmp_path: Path):
    folder = tmp_path / "explanations"
    folder.mkdir()
    long = "Words that " + "and ".join(["begin"] * 80)
    (folder / "h.0.mlp.c_fc_latent1.txt").write_text(json.dumps(long))
    (folder / "h.1.mlp.c_fc_latent0.txt").write_text('"caf\\u00e9s"')
    (folder / "h.99.mlp.c_fc_latent0.txt").write_text('"elsewhere"')
    (folder / "log.txt").write_text("")
    result = import_file(paths, folder)
    assert result.unknown == ("h.99.mlp.c_fc:0",)
    assert result.ignored == ("log.txt",)
    assert now()[TWO]["label"] == "cafés"
    assert now()[ONE]["label"].startswith("Words that begin")
    assert len(now()[ONE]["label"]) <= 300
    assert now()[ONE]["reason"] == long


@pytest.mark.parametrize("lines", [False, True])
def test_explanations_of_neuronpedia(paths: HarvestLayout, tmp_path: Path, lines: bool):
    explanations = [
        {
            "modelId": "gpt2-small",
            "layer": "h.0.mlp.c_fc",
            "index": "1",
            "description": "plural nouns",
            "typeName": "oai_token-act-pair",
            "explanationModelName": "gpt-4o-mini",
        },
        {"modelId": "gpt2-small", "layer": "h.0.mlp.c_fc", "index": 9999, "description": "no"},
    ]
    file = tmp_path / "explanations"
    text = "\n".join(map(json.dumps, explanations)) if lines else json.dumps(explanations)
    file.write_text(text)
    result = import_file(paths, file)
    assert result.unknown == ("h.0.mlp.c_fc:9999",)
    assert (now()[ONE]["label"], now()[ONE]["label_author"]) == ("plural nouns", "gpt-4o-mini")


def test_csv_as_people_write_it(paths: HarvestLayout, tmp_path: Path):
    file = tmp_path / "mine.csv"
    file.write_text(
        "component_key,label,starred,tags,note,density,score_intruder\r\n"
        f'{ONE},"nouns, plural",yes,"a, b","line\n2",0.1,0.5\r\n'
        f"{DEAD},,,,,,\r\n",
        encoding="utf-8-sig",
    )
    result = import_file(paths, file)
    assert result.ignored == ("density",)
    row = now()[ONE]
    assert (row["label"], row["starred"], row["tags"]) == ("nouns, plural", True, ["a", "b"])
    assert (row["note"], row["score_intruder"]) == ("line\n2", 0.5)
    assert DEAD not in now()  # empty cells say nothing


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.csv", f"component_key,label\n{ONE},x\n{TWO},x,y\n", "line 3"),
        ("a.csv", f"component_key,starred\n{ONE},maybe\n", "maybe"),
        ("a.csv", f"component_key,confidence,label\n{ONE},x,1\n", "confidence"),
        ("a.csv", f"component_key,score_X\n{ONE},1\n", "X"),
        ("a.csv", f"component_key,label,label\n{ONE},1,2\n", "component_key"),
        ("a.csv", "key,label\n", "component_key"),
        ("a.csv", "\x00\n", "component_key"),
        ("a.json", '[{"layer": "h.0.mlp.c_fc", "index": 1}]', "description"),
        (
            "a.json",
            '[{"layer": "h.0.mlp.c_fc", "index": "x", "description": "d"}]',
            "explanation 1",
        ),
        ("a.json", '[{"layer": "h.0.mlp.c_fc", "index": 9.7, "description": "d"}]', "9.7"),
        ("a.json", '[{"layer": "h.0.mlp.c_fc", "index": 1, "description": null}]', "string"),
        ("a.json", "[1", "JSON"),
        ("a.json", "[[1]]", "explanation 1"),
        ("a.db", "SQLite format 3\x00 and no more", r"a\.db"),
    ],
)
def test_one_wrong_row_and_nothing_is_imported(
    paths: HarvestLayout, tmp_path: Path, name: str, content: str, place: str
):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(HarvestError, match=place):
        import_file(paths, file)
    assert not Interpretations(paths).history()


def test_what_is_exported_comes_back(paths: HarvestLayout, tmp_path: Path):
    Interpretations(paths).add(
        [
            Label(ONE, 'plural "nouns"\u00e9', 0.75, "so\nit is", "model", "m-1"),
            Edit(TWO, "label", "mine, all", "Ann"),
            Edit(TWO, "tags", ("a", "b"), "Ann"),
            Edit(ONE, "starred", value=True, author="Ann"),
            Edit(ONE, "note", "two\nlines", "Ann"),
            Score(ONE, "intruder", 0.7, 0.4, 0.9, 0.2, 10, 1, "m-1"),
        ]
    )
    other, before = HarvestLayout.of("s-2"), now()
    for name, suffix, lost in (
        ("csv", ".csv", ()),
        ("autointerp", ".db", ("note", "starred", "tags", "label_source", "label_author")),
        ("neuronpedia", ".json", ("note", "starred", "tags", "score_intruder", "label_source")),
        ("delphi", "", ("note", "starred", "tags", "score_intruder", "label_source")),
    ):
        file = tmp_path / f"exported-{name}{suffix}"
        n, _ = export_file(paths, file, name)
        assert n == 2
        with pytest.raises(HarvestError, match="exists"):
            export_file(paths, file, name)
        assert import_file(other, file).unknown == ()
        after = now("s-2")
        without = [*lost]
        if name in ("neuronpedia", "delphi"):
            without += ["confidence", "reason", "label_author"]
        for key, row in before.items():
            for column in row.keys() - set(without):
                if name == "autointerp" and key == TWO and column == "confidence":
                    continue  # the database must have a word
                assert after[key][column] == row[column], (name, key, column)
        for path in other.interpretation_entries.iterdir():
            path.unlink()
    database = sqlite3.connect(tmp_path / "exported-autointerp.db")
    (details,) = database.execute("SELECT details FROM scores").fetchone()
    assert json.loads(details)["high"] == 0.9
    with (tmp_path / "exported-csv.csv").open(newline="", encoding="utf-8") as file:
        assert [row["component_key"] for row in csv.DictReader(file)] == [ONE, TWO]


def test_a_table_that_was_exported_edited_and_imported_changes_what_was_edited(
    paths: HarvestLayout, tmp_path: Path
):
    stored = Interpretations(paths)
    stored.add(
        [
            Label(ONE, "nouns", 0.75, "so", "model", "m-1"),
            Label(TWO, "verbs", 0.75, "so", "model", "m-1"),
            Edit(ONE, "tags", ("a", "b"), "Ann"),
            Score(ONE, "intruder", 1 / 3, 0.1, 0.9, 0.2, 10, 1, "m-1"),
        ]
    )
    before = stored.history()
    export_file(paths, tmp_path / "table.csv")
    text = (tmp_path / "table.csv").read_text()
    result = import_file(paths, tmp_path / "table.csv")
    assert (len(result.kept), result.n_unchanged) == (0, 4)
    assert len(stored.history()) == len(before)
    (tmp_path / "table.csv").write_text(text.replace("verbs", "modal verbs"))
    assert import_file(paths, tmp_path / "table.csv").n_unchanged == 3
    row = now()[TWO]
    # The model did not say so.
    assert (row["label"], row["label_author"], row["label_source"]) == (
        "modal verbs",
        "table.csv",
        "import",
    )
    assert now()[ONE]["label_author"] == "m-1"
    assert stored.scores()["low"].to_list() == [0.1]
    mine = tmp_path / "mine.csv"
    mine.write_text(f"component_key,label\n{ONE},nouns\n{TWO},auxiliaries\n")
    assert import_file(paths, mine, person="Ann").n_unchanged == 0
    assert [now()[key]["label_author"] for key in (ONE, TWO)] == ["Ann", "Ann"]
    assert import_file(paths, mine, person="Ann").n_unchanged == 2


def test_a_changed_reason_or_confidence_is_kept(paths: HarvestLayout, tmp_path: Path):
    stored, file = Interpretations(paths), tmp_path / "table.csv"
    stored.add([Label(key, "s", 0.6, "so", "model", "m-1") for key in (ONE, TWO)])
    export_file(paths, tmp_path / "all.db")
    assert not import_file(paths, tmp_path / "all.db").kept  # its confidences are only words
    export_file(paths, file)
    lines = file.read_text().splitlines(keepends=True)
    edited = [lines[1].replace("0.6", "0.7"), lines[2].replace("so", "why")]
    file.write_text("".join([lines[0], *edited]))
    assert len(import_file(paths, file).kept.labels) == 2
    held = now()
    assert (held[ONE]["confidence"], held[ONE]["label_author"]) == (0.7, "table.csv")
    assert (held[TWO]["reason"], held[TWO]["confidence"]) == ("why", 0.6)
    file.write_text(f"component_key,label\n{ONE},s\n{TWO},s\n")
    assert not import_file(paths, file).kept  # it says nothing else


def test_no_text_in_a_csv_file_is_a_formula(paths: HarvestLayout, tmp_path: Path):
    stored, file = Interpretations(paths), tmp_path / "table.csv"
    stored.add(
        [
            Label(ONE, '=HYPERLINK("http://x")', 0.5, "'=quoted", "model", "@m"),
            Edit(ONE, "note", "- one\n- two", "Ann"),
            Edit(ONE, "tags", ("+a", "'b"), "Ann"),
            Score(ONE, "intruder", -0.5, None, None, None, None, 0, "m"),
            Label(TWO, "'quoted'", None, "", "model", "m"),
        ]
    )
    export_file(paths, file)
    with file.open(newline="", encoding="utf-8") as opened:
        first, _ = csv.DictReader(opened)
    assert first.pop("score_intruder") == "-0.5"
    assert first["label"] == """'=HYPERLINK("http://x")"""
    assert not [cell for cell in first.values() if cell.startswith(tuple("=+-@"))]
    assert not import_file(paths, file).kept
    other = HarvestLayout.of("s-2")
    import_file(other, file)
    assert now("s-2") == now()


def test_an_import_below_a_label_by_a_person(paths: HarvestLayout, tmp_path: Path):
    stored, file = Interpretations(paths), tmp_path / "table.csv"
    stored.add([Edit(ONE, "label", "nouns", "Ann"), Edit(TWO, "label", "verbs", "Ann")])
    export_file(paths, file)
    file.write_text(file.read_text().replace("nouns", "plural nouns"))
    with pytest.raises(HarvestError, match="--person"):
        import_file(paths, file)
    assert now()[ONE]["label"] == "nouns"
    assert len(import_file(paths, file, person="Bob").kept.labels) == 1
    assert (now()[ONE]["label"], now()[ONE]["label_author"]) == ("plural nouns", "Bob")
    file.write_text(f"component_key,label\n{TWO},adverbs\n")
    for expected in (1, 0):
        result = CliRunner().invoke(cli, ["labels", "import", "s-1", str(file), "--json"])
        assert json.loads(result.stdout)["labels"] == expected
        assert json.loads(result.stdout)["outranked"] == [TWO] * expected
    assert now()[TWO]["label"] == "verbs"


def test_of_several_labels_of_a_component_the_last_is_kept(paths: HarvestLayout, tmp_path: Path):
    file = tmp_path / "table.csv"
    Interpretations(paths).add([Label(ONE, "verbs", None, "", "model", "m")])
    file.write_text(f"component_key,label\n{ONE},nouns\n{TWO},x\n{ONE},names\n{ONE},verbs\n")
    done = CliRunner().invoke(cli, ["labels", "import", "s-1", str(file)])
    assert (
        f"2 labels, since a later one in the file is of the same component; kept are {ONE}: verbs"
        in (done.stderr)
    )
    assert {key: now()[key]["label"] for key in (ONE, TWO)} == {ONE: "verbs", TWO: "x"}


def test_the_frame_of_components_has_the_columns_only_where_something_was_written(
    paths: HarvestLayout,
):
    before = load_components_frame("s-1")
    assert not load_interpretations("s-1")
    assert "label" not in before.columns
    Interpretations(paths).add(
        [
            Label(ONE, "nouns", 0.5, "", "model", "m"),
            Score(ONE, "intruder", 0.7, 0.4, 0.9, 0.2, 10, 1, "m"),
            Edit("nowhere:1", "note", "gone", "Ann"),
        ]
    )
    frame = load_components_frame("s-1")
    assert frame.select(before.columns).equals(before)
    rows = {row["component_key"]: row for row in frame.to_dicts()}
    assert (rows[ONE]["label"], rows[ONE]["score_intruder"]) == ("nouns", 0.7)
    assert (rows[TWO]["label"], rows[TWO]["starred"], rows[TWO]["tags"]) == (None, False, [])
    assert load_interpretations("s-1").labels["label"].to_list() == ["nouns"]
    (paths.interpretation_entries / "odd.txt").touch()
    with pytest.warns(UserWarning, match=r"odd\.txt"):
        load_components_frame("s-1")


def test_the_commands(paths: HarvestLayout, tmp_path: Path):
    file = tmp_path / "mine.csv"
    file.write_text(f"component_key,label\n{ONE},nouns\nx:1,\x1b[31mred\n")
    result = CliRunner().invoke(cli, ["labels", "import", "s-1", str(file)])
    assert result.exit_code == 0, result.output
    assert "1 label" in result.output
    assert "x:1" in result.output
    result = CliRunner().invoke(cli, ["labels", "import", "s-1", str(file), "--json"])
    assert json.loads(result.stdout)["unknown_keys"] == ["x:1"]
    exported = tmp_path / "all.json"
    result = CliRunner().invoke(cli, ["labels", "export", "s-1", str(exported)])
    assert result.exit_code == 0, result.output
    assert json.loads(exported.read_text())[0]["description"] == "nouns"
    result = CliRunner().invoke(cli, ["labels", "export", "s-1", str(exported)])
    assert result.exit_code != 0
    assert paths.interpretations.is_dir()
