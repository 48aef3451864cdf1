"""A harvest in SPD's newer form, made one of ours; the databases are written and read by SQLite."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result
from starlette.testclient import TestClient

from harvest_assets import loaders
from harvest_assets.cli.main import cli
from harvest_assets.files.layout import HarvestLayout, run_cache_dirs
from harvest_assets.interpretations.entries import Score
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets.sharing import harvest_db
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets_tests.faults.small_harvest import LAYERS, N_CTX, RUN, VOCAB, SmallHarvest
from harvest_assets_tests.sharing.harvest_db_reader import last_folder, read
from harvest_assets_tests.sharing.machine import NAME
from harvest_assets_tests.viewer.synthetic import write_tokenizer

KEY = "h.0.mlp:3"
PER_SIDE = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> HarvestLayout:
    paths = HarvestLayout(tmp_path_factory.mktemp("made") / NAME)
    SmallHarvest(paths.root).run()
    return paths


@pytest.fixture(scope="module")
def exported(made: HarvestLayout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    scores = [(KEY, "intruder", 0.7, '{"n_trials": 10}')]
    folder = tmp_path_factory.mktemp("exported")
    return harvest_db.export(made, folder, scores, lambda *_: None).folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path, out_dir: Path) -> Path:  # noqa: ARG001
    """Files of the test's own."""
    return Path(shutil.copytree(exported, tmp_path / "theirs" / "h-20260102_030405"))


def run(*command: str) -> Result:
    return CliRunner().invoke(cli, command)


def imported(folder: Path, *options: str) -> HarvestLayout:
    done = run("import", str(folder), "--json", *options)
    assert done.exit_code == 0, done.output
    return HarvestLayout(Path(json.loads(done.stdout)["path"]))


def lines_of(paths: HarvestLayout) -> dict[str, dict[str, Any]]:
    lines = map(json.loads, paths.components.open())
    return {line["component_key"]: line for line in lines}


def uncertain(example: dict[str, Any]) -> bool:
    """Whether a window cut at an end of its row fires at both places that it may be of."""
    ids = example["token_ids"]
    inside = [place for place, token in enumerate(ids) if token >= 0]
    fires = [example["ci_values"][place] > 1e-6 for place in inside]
    n = len(inside)
    return n < len(ids) and fires[PER_SIDE] and fires[n - 1 - PER_SIDE]


def test_what_was_exported_comes_back(made: HarvestLayout, folder: Path):
    """Also the examples, but for those that a window without padding does not place."""
    paths = imported(folder.parent)  # of several folders, the last
    assert paths.root.name == f"{NAME}@{folder.name}"
    before, after = lines_of(made), lines_of(paths)
    assert list(after) == list(before)
    examples = known = 0
    for key, line in before.items():
        ours = line.pop("activation_examples")
        theirs = after[key].pop("activation_examples")
        assert after[key] == line
        for one, other in zip(ours, theirs, strict=True):
            examples += 1
            if not uncertain(one):
                known += 1
                assert one == other
            else:
                assert other["ci_values"][PER_SIDE] > 1e-6
                for name in one:
                    values = [it[name] for it in (one, other)]
                    a, b = ([x for x in it if x not in (-1, 0.0)] for it in values)
                    assert a == b
    assert 0.5 < known / examples < 1
    note = next(it for it in json.loads(paths.config.read_text())["notes"] if "middle" in it)
    assert f"{examples - known:,} of {examples:,}" in note
    for name in ("component_correlations", "token_stats"):
        assert getattr(paths, name).read_bytes() == getattr(made, name).read_bytes()
    ours, theirs = (pq.read_table(it.component_index).to_pydict() for it in (made, paths))
    for name in ("component_key", "flat_index", "firing_count", "telling", "telling_input_tokens"):
        assert theirs[name] == ours[name]
    assert set(theirs["ci_histogram"]) == {None}


def test_it_is_read_and_shared_like_others_but_not_continued(folder: Path, tmp_path: Path):
    paths = imported(folder, "--out-name", "mine")
    assert run("verify", "mine").exit_code == 0
    (listed,) = json.loads(run("list", "--json").stdout)
    assert (listed["condition"], listed["key"]) == ("harvested", f"{RUN}@{folder.name}")
    assert listed["n_components"] == sum(n for _, n in LAYERS)
    shown = Library().get("mine")
    place = shown.places[KEY]
    assert shown.ci_histogram(place) is None
    client = TestClient(make_app(Library(), "mine"), base_url="http://127.0.0.1:3100")
    page = client.get(f"/run/mine/component/{KEY}").text
    assert "perhaps not sampled uniformly" in page
    assert "no histograms" in page
    assert json.loads(paths.config.read_text())["notes"] == shown.warnings
    by_ci = [it.ci_values[PER_SIDE] for it in shown.examples(place, "ci")]
    assert by_ci == sorted(by_ci, reverse=True)
    scores = Interpretations(paths).history().scores.select("component_key", "method", "score")
    assert scores.rows() == [(KEY, "intruder", 0.7)]
    Interpretations(paths).add([Score(KEY, "mine", 0.5, None, None, 0.2, 10, 0, "someone")])
    assert "score_mine" in loaders.load_components_frame("mine").columns
    assert run("pack", "mine", str(tmp_path / "packed.tar.zst")).exit_code == 0
    assert run("unpack", str(tmp_path / "packed.tar.zst"), "--out-name", "again").exit_code == 0
    assert run("verify", "again").exit_code == 0
    for command in (
        ("harvest", "mine"),
        ("export", "mine", str(tmp_path / "out"), "--format", "harvest-db"),
        ("pack", "mine", str(tmp_path / "layers.tar.zst"), "--layers", "h.0.*"),
    ):
        refused = run(*command)
        assert refused.exit_code == 1
        assert "imported" in refused.stderr
    assert "mine" in run("import", str(folder), "--out-name", "mine").stderr


def test_rows_have_no_length_that_anything_contradicts(folder: Path):
    """As many batches may have been asked for as the dataset does not have."""
    first = imported(folder, "--out-name", "first")
    assert json.loads(first.config.read_text())["context_length"] == N_CTX
    (cached,) = run_cache_dirs("faults", RUN.rpartition("/")[2])[:1]
    for name, factor, trained in (("windows", 4, None), ("training", 2, N_CTX)):
        setting("n_batches", str(12 * factor))(folder)
        if trained:
            cached.mkdir(parents=True)
            config = {"task_config": {"max_seq_len": trained}}
            (cached / "final_config.yaml").write_text(json.dumps(config))
        paths = imported(folder, "--out-name", name)
        config = json.loads(paths.config.read_text())
        assert "context_length" not in config
        assert any(f"would have {N_CTX // factor} tokens" in note for note in config["notes"])
        assert paths.components.read_bytes() == first.components.read_bytes()


def test_a_tokenizer_of_more_ids_is_doubted(folder: Path, tmp_path: Path):
    write_tokenizer(tmp_path / "wide", [f" word{n}" for n in range(VOCAB + 2)])
    paths = imported(folder, "--tokenizer", str(tmp_path / "wide"))
    assert any("wide" in note for note in json.loads(paths.config.read_text())["notes"])


def test_without_cofirings_the_firings_are_those_of_the_tokens(made: HarvestLayout, folder: Path):
    (folder / "component_correlations.pt").unlink()
    paths = imported(folder / "harvest.db")
    counts, before = (
        torch.load(it.component_correlations, weights_only=True) for it in (paths, made)
    )
    assert counts["cooccurrence"] is False
    assert counts["count_i"].tolist() == before["count_i"].tolist()
    assert run("verify", paths.root.name).exit_code == 0


Change = Callable[[Path], object]


def sql(script: str, *values: Any) -> Change:
    def change(folder: Path) -> None:
        with closing(sqlite3.connect(folder / "harvest.db")) as database:
            if values:
                database.execute(script, values)
                database.commit()
            else:
                database.executescript(script)

    return change


def column(name: str, value: Any) -> Change:
    """Replace a value of the row of `KEY`."""
    return sql(f"UPDATE components SET {name} = ? WHERE component_key = ?", value, KEY)  # noqa: S608


def setting(name: str, value: str) -> Change:
    return sql("UPDATE config SET value = ? WHERE key = ?", value, name)


def example(token_ids: Any, firings: Any, **activations: Any) -> Change:
    """Replace the first example of `KEY`."""

    def change(folder: Path) -> None:
        (first, *rest) = read(folder).components[KEY]["activation_examples"]
        first |= {"token_ids": token_ids, "firings": firings}
        first["activations"] |= activations
        column("activation_examples", json.dumps([first, *rest]))(folder)

    return change


def file(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def half(folder: Path) -> None:
    content = (folder / "harvest.db").read_bytes()
    (folder / "harvest.db").write_bytes(content[: len(content) // 2])


def wrong_counts(folder: Path) -> None:
    counts = torch.load(folder / "component_correlations.pt", weights_only=True)
    counts["count_ij"][0, 1] += 1
    torch.save(counts, folder / "component_correlations.pt")


ONES, FIRES = [1] * 7, [True] * 7
METHOD = '{"type": "Other", "wandb_path": "a", "activation_threshold": 0}'
VIEW = "ALTER TABLE components RENAME TO c; CREATE VIEW components AS SELECT * FROM c"
VIRTUAL = "DROP TABLE config; CREATE VIRTUAL TABLE config USING fts5(key, value)"
NO_UNIQUE_KEYS = (
    "CREATE TABLE c AS SELECT * FROM components; DROP TABLE components;"
    "ALTER TABLE c RENAME TO components; INSERT INTO components SELECT * FROM components;"
)
# What is done to the files, and what the refusal names.
HOSTILE: dict[str, tuple[Change, str]] = {
    "not SQLite": (file("harvest.db", b"SQLite format 4\0" * 99), "harvest.db"),
    "truncated": (half, "harvest.db"),
    "journal": (file("harvest.db-wal", b"x"), "harvest.db-wal"),
    "pickle": (file("token_stats.pt", b"cos\nsystem\n(S'true'\ntR."), "token_stats.pt"),
    "wrong counts": (wrong_counts, "count_ij"),
    "no counts": (lambda folder: (folder / "token_stats.pt").unlink(), "token_stats.pt"),
    "view": (sql(VIEW), "components"),
    "virtual": (sql(VIRTUAL), "config"),
    "generated": (sql("ALTER TABLE components ADD COLUMN x AS (zeroblob(9))"), "components"),
    "twice": (sql(NO_UNIQUE_KEYS), "twice"),
    "key as a BLOB": (column("component_key", b"\0\xff"), "components"),
    "unknown": (column("component_key", "h.9:1"), "h.9:1"),
    "missing": (sql("DELETE FROM components WHERE component_key = ?", KEY), KEY),
    "other layer": (column("layer", "h.1.attn"), KEY),
    "other density": (column("firing_density", 0.99), KEY),
    "text as density": (column("firing_density", "many"), KEY),
    "no mean": (column("mean_activations", "{}"), KEY),
    "infinite mean": (column("mean_activations", '{"causal_importance": 1e999}'), KEY),
    "huge": (column("activation_examples", b" " * 70_000_000), "harvest.db"),
    "number": (column("input_token_pmi", 3), "input_token_pmi"),
    "no JSON": (column("output_token_pmi", b"{"), "output_token_pmi"),
    "deep": (column("output_token_pmi", "[" * 99_999), "output_token_pmi"),
    "no such token": (column("input_token_pmi", '{"top": [[40, 1.0]], "bottom": []}'), KEY),
    "no lists": (example(3, 3), "token_ids"),
    "beyond the vocabulary": (example([40] * 7, FIRES), KEY),
    "padding": (example([-1] * 7, FIRES), KEY),
    "fires nowhere": (example(ONES, [False] * 7), KEY),
    "too wide": (example([1] * 8, [True] * 8), KEY),
    "numbers as firings": (example(ONES, ONES), "firings"),
    "too few values": (example(ONES, FIRES, causal_importance=[0.5]), "causal_importance"),
    "beyond float32": (
        example(ONES, FIRES, causal_importance=[1e39] * 7, component_activation=[0.0] * 7),
        KEY,
    ),
    "no settings": (sql("DROP TABLE config"), "config"),
    "other method": (setting("method_config", METHOD), "Other"),
    "windows of padding": (
        setting("activation_context_tokens_per_side", "65536"),
        "activation_context_tokens_per_side",
    ),
    "vast windows": (setting("activation_context_tokens_per_side", "1000000000"), "per_side"),
    "text as a count": (setting("batch_size", '"8"'), "batch_size"),
}


def test_what_is_wrong_with_hostile_files_is_said_and_nothing_is_left(
    exported: Path, tmp_path: Path, out_dir: Path
):
    for what, (change, named) in HOSTILE.items():
        folder = Path(shutil.copytree(exported, tmp_path / what / "h-1"))
        change(folder)
        refused = run("import", str(folder))
        assert refused.exit_code == 1, (what, refused.output, refused.exception)
        (sentence,) = [it for it in refused.stderr.splitlines() if it.startswith("Error: ")]
        assert named in sentence, (what, sentence)
        assert str(folder) in sentence, (what, sentence)
        assert not list((out_dir / "harvest").glob("*")), what
        shutil.rmtree(folder)


def test_what_is_not_a_name_of_a_run_names_none(folder: Path):
    method = json.loads(METHOD) | {"type": "SPDHarvestConfig", "wandb_path": "../.."}
    setting("method_config", json.dumps(method))(folder)
    paths = imported(folder)
    assert paths.root.name == folder.name
    (listed,) = json.loads(run("list", "--json").stdout)
    assert (listed["key"], listed["condition"]) == (None, "harvested")
    assert any("'../..'" in note for note in json.loads(paths.config.read_text())["notes"])


def test_triggers_are_not_run(folder: Path):
    before = read(folder).components.keys()
    sql(
        "CREATE TRIGGER t AFTER INSERT ON scores BEGIN DELETE FROM components; END;"
        "CREATE VIEW labels AS SELECT load_extension('x');"
    )(folder)
    assert lines_of(imported(folder)).keys() == before


@pytest.mark.usefixtures("out_dir")
def test_the_genuine_harvest_is_what_its_files_say(reference_runs: Path):
    """Each firing is where the rows and the original's own firings have it."""
    folder = last_folder(reference_runs / "harvest_db/s-5d000001")
    tokenizer = str(reference_runs / "world/tokenizer")
    paths = imported(folder, "--tokenizer", tokenizer)
    assert run("verify", paths.root.name).exit_code == 0
    given, lines = read(folder), lines_of(paths)
    assert lines.keys() == given.components.keys()
    config = json.loads(paths.config.read_text())
    assert (config["n_tokens"], config["context_length"]) == (40_960, 64)
    assert config["wandb_path"] == "wandb:local/spd/runs/s-5d000001"
    activations = reference_runs / "activations"
    rows = torch.load(activations / "s-5d000001.batches.pt", weights_only=True).reshape(-1, 64)
    packed = np.load(activations / "s-5d000001.firings.npz")
    shape = tuple(packed["shape"])
    fired = np.unpackbits(packed["packed"])[: np.prod(shape)].reshape(*rows.shape, -1)
    # Where each window was cut: its row and position, and the place of the position in it.
    cuts: dict[tuple[int, ...], list[tuple[int, int, int]]] = {}
    for r, row in enumerate(rows.tolist()):
        for position in range(64):
            start = max(0, position - 10)
            window = tuple(row[start : position + 11])
            cuts.setdefault(window, []).append((r, position, position - start))
    index = pq.read_table(paths.component_index).to_pydict()
    right = n_examples = 0
    for c, key in enumerate(index["component_key"]):
        if key not in lines:
            assert index["firing_count"][c] == 0
            continue
        row, line = given.components[key], lines[key]
        assert index["firing_count"][c] / 40_960 == row["firing_density"]
        assert line["mean_ci"] == row["mean_activations"]["causal_importance"]
        for name in ("input_token_pmi", "output_token_pmi"):
            assert line[name] == row[name]
        pairs = zip(line["activation_examples"], row["activation_examples"], strict=True)
        for ours, theirs in pairs:
            inside = [place for place, token in enumerate(ours["token_ids"]) if token >= 0]
            kept = slice(inside[0], inside[-1] + 1)
            assert ours["token_ids"][kept] == theirs["token_ids"]
            values = theirs["activations"]
            assert np.array_equal(
                np.float32(ours["ci_values"][kept]), np.float32(values["causal_importance"])
            )
            assert np.array_equal(
                np.float32(ours["component_acts"][kept]),
                np.float32(values["component_activation"]),
            )
            assert theirs["firings"][10 - inside[0]]
            true = {
                place
                for r, position, place in cuts[tuple(theirs["token_ids"])]
                if fired[r, position, c]
            }
            right += 10 - inside[0] in true
            n_examples += 1
    n_uncertain = int(next(it for it in config["notes"] if "middle" in it).split()[0])
    assert n_examples - n_uncertain <= right <= n_examples
    assert 0 < n_uncertain < 0.05 * n_examples
    decoded = loaders.activation_examples(paths.root.name, "h.0.mlp.c_fc:0", 1)
    assert decoded[0].firing_index == 10
