"""What is compared, what is refused, what is kept, and what the command and the pages show."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from starlette.testclient import TestClient

import harvest_assets
from harvest_assets.cli.main import cli
from harvest_assets.comparison import NotComparableError, compare, compare_known
from harvest_assets.comparison.opened import OpenedHarvest
from harvest_assets.comparison.same_rows import check_same_rows
from harvest_assets.comparison.stored_pairs import PairsOf
from harvest_assets.errors import HarvestError
from harvest_assets.files import manifest
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.records import FileDigest
from harvest_assets.interpretations.entries import Score
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets.store.garbage import removable
from harvest_assets.store.verification import problems_of
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets_tests.comparison.conftest import Two


@pytest.fixture
def client(two: Two) -> TestClient:  # noqa: ARG001
    return TestClient(make_app(Library(), None), base_url="http://127.0.0.1")


@pytest.fixture
def opened(two: Two) -> tuple[OpenedHarvest, OpenedHarvest]:
    return OpenedHarvest.of(two.spd.layout), OpenedHarvest.of(two.saes.layout)


def score(key: str, value: float) -> Score:
    return Score(key, "intruder", value, None, None, None, None, 0, "somebody")


def test_opened_harvests_are_compared_as_their_names_are(two: Two):
    one, other = (harvest_assets.open(each.layout.root) for each in (two.spd, two.saes))
    expected = compare(*two.names, top=2)
    for named in (other, other.path, two.names[1]):
        found = one.compare(named, top=2)
        assert found.summary.equals(expected.summary)
        assert found.pairs.equals(expected.pairs)
    with pytest.raises(HarvestError, match="nowhere"):
        one.compare("nowhere")


def test_numbers_follow_from_the_counts(two: Two):
    Interpretations(two.saes.layout).add(
        [score("h.0.mlp.input:0", 0.5), score("h.1.rms_2.output:1", 1.0)]
    )
    found = compare_known(two.spd.layout, two.saes.layout)
    assert found.sameness.same_target
    assert found.sameness.warnings == ()
    for each, fires in ((two.spd, two.spd_fires), (two.saes, two.saes_fire)):
        row = found.summary.row(by_predicate=pl.col("harvest") == each.layout.root.name, named=True)
        density = fires.mean((0, 1))
        alive = density[density > 0]
        assert (row["components"], row["alive"]) == (len(density), len(alive))
        assert row["share_alive"] == len(alive) / len(density)
        assert row["l0"] == pytest.approx(density.sum())
        for q in (5, 25, 50, 75, 95):
            assert row[f"density_q{q:02d}"] == pytest.approx(np.quantile(alive, q / 100))
        index = pl.read_parquet(each.layout.component_index).filter(pl.col("firing_count") > 0)
        assert row["informativeness_mean"] == pytest.approx(index["telling"].mean())
        assert row["informativeness_median"] == pytest.approx(index["telling"].median())
        layers = found.layers.filter(harvest=each.layout.root.name)
        assert layers["layer"].to_list() == index["layer"].unique(maintain_order=True).to_list()
        assert layers["l0"].sum() == pytest.approx(row["l0"])
    assert found.summary["intruder_mean"].to_list() == [None, 0.75]
    assert found.summary["intruder_n"].to_list() == [0, 2]
    assert found.layers.filter(layer="h.0.mlp.input")["intruder_mean"].item() == 0.5


@pytest.mark.parametrize(
    ("config", "counts", "named"),
    [
        ({"context_length": 8}, {}, r"--context_length \d+\."),
        ({"tokenizer_sha256": "0" * 64}, {}, "vocabularies"),
        ({"tokenizer_sha256": ["x"], "ci_threshold": 10**400}, {"n_tokens": 64}, "--n_batches"),
        ({}, {"n_tokens": 64}, r"--n_batches \d+ --batch_size \d+\."),
        ({}, {"input_totals": torch.arange(1, 97).double()}, "token 0"),
    ],
)
def test_other_rows_are_refused(opened, config: dict, counts: dict, named: str):
    one, other = opened
    changed = dataclasses.replace(
        other,
        config=other.config | config,
        token_stats=dataclasses.replace(other.token_stats, **counts),
    )
    with pytest.raises(NotComparableError, match=named):
        check_same_rows(one, changed)
    assert (changed.threshold is None) is ("ci_threshold" in config)
    with pytest.raises(NotComparableError, match=one.name):
        check_same_rows(one, one)


def test_another_target_is_recognised_by_what_it_predicts(opened):
    one, other = opened
    totals = other.token_stats.output_totals
    stats = dataclasses.replace(other.token_stats, output_totals=totals.roll(1))
    found = check_same_rows(one, dataclasses.replace(other, token_stats=stats))
    a, b = one.token_stats.output_totals.numpy(), totals.roll(1).numpy()
    assert found.difference == pytest.approx(np.abs(a - b).sum() / 2 / one.n_tokens)
    assert not found.same_target
    assert any("targets" in warning for warning in found.warnings)
    rounded = dataclasses.replace(other.token_stats, output_totals=totals * (1 + 1e-6))
    assert check_same_rows(one, dataclasses.replace(other, token_stats=rounded)).same_target


def test_pairs_are_kept_until_a_harvest_changes(two: Two, out_dir: Path, monkeypatch):
    shutil.copytree(two.out, out_dir)
    monkeypatch.setenv("SPD_OUT_DIR", str(out_dir))
    one, other = (HarvestLayout.of(name) for name in two.names)
    first = compare(*two.names, rows=30)
    assert compare_known(one, other).pairs.equals(first.pairs)
    assert compare_known(other, one).pairs is None
    shutil.rmtree(out_dir / "data")  # nothing can be computed any more
    again = compare(*two.names, top=1)
    assert again.pairs_of.n_rows == 30
    assert again.pairs.equals(first.pairs.filter(pl.col("rank") == 1))
    for needs_a_pass in ({"rows": 31}, {"top": 4}):
        with pytest.raises(HarvestError, match="rows"):
            compare(*two.names, **needs_a_pass)
    assert not problems_of(one)
    assert not [it for it in removable() if "comparisons" in str(it.path)]

    (kept,) = one.comparisons.iterdir()
    content = kept.read_bytes()
    kept.write_bytes(content[:300] + b"\0" * 50 + content[350:])
    assert compare_known(one, other).pairs is None
    table = pq.read_table(io.BytesIO(content))
    pq.write_table(table.drop_columns("n_a").append_column("n_a", table["n_b"]), kept)
    assert compare_known(one, other).pairs is None
    kept.write_bytes(content)
    assert compare_known(one, other).pairs.equals(first.pairs)
    manifest.record(other, other.config, "0" * 64, FileDigest(1, "0" * 64))
    assert compare_known(one, other).pairs is None

    def replaced_meanwhile(*_: object) -> tuple[PairsOf, pl.DataFrame]:
        manifest.record(one, one.config, "1" * 64, FileDigest(1, "1" * 64))
        return first.pairs_of, first.pairs

    monkeypatch.setattr("harvest_assets.comparison.comparison.count_pairs", replaced_meanwhile)
    with pytest.warns(UserWarning, match=f"{one.root.name} was harvested again"):
        compare(*two.names)
    assert compare_known(one, other).pairs is None


def test_an_imported_harvest_is_not_computed_again(two: Two, out_dir: Path, monkeypatch):
    shutil.copytree(two.out, out_dir)
    monkeypatch.setenv("SPD_OUT_DIR", str(out_dir))
    other = HarvestLayout.of(two.names[1])
    source = {"database": "harvest.db", "sha256": "0" * 64, "counts": {}}
    config = json.loads(other.config.read_text()) | {"imported": source}
    other.config.write_text(json.dumps(config))
    other.plan.unlink()
    other.firings.unlink()
    with pytest.raises(HarvestError, match=f"{other.root} was imported"):
        compare(*two.names)
    client = TestClient(make_app(Library(), None), base_url="http://127.0.0.1")
    page = client.get("/methods", params=dict(zip(("run_a", "run_b"), two.names, strict=True)))
    assert "was imported from harvest.db" in page.text
    assert "harvest-assets compare" not in page.text


def test_the_command(two: Two, tmp_path: Path):
    file = tmp_path / "pairs.parquet"
    arguments = ["compare", *two.names, "--rows", "16"]
    table = tmp_path / "numbers.csv"
    written = ["--pairs", str(file), "--summary", str(table), "--json"]
    ran = CliRunner().invoke(cli, [*arguments, *written])
    assert ran.exit_code == 0, ran.output
    value = json.loads(ran.stdout)
    assert value["pairs"]["n_rows"] == 16
    assert value["pairs"]["best"] == pl.read_parquet(file).to_dicts()
    assert [it["harvest"] for it in value["summary"]] == list(two.names)
    rows = [row | {"layer": None} for row in value["summary"]] + value["layers"]
    for got, row in zip(pl.read_csv(table).to_dicts(), rows, strict=True):
        assert {name: got[name] for name in row} == row
    shown = CliRunner().invoke(cli, arguments)
    best = value["pairs"]["best"][0]
    assert best["component_a"] in shown.stdout
    assert best["component_b"] in shown.stdout
    assert CliRunner().invoke(cli, [*arguments, "--pairs", str(file)]).exit_code == 1
    assert CliRunner().invoke(cli, [*arguments, "--pairs", "pairs.txt"]).exit_code == 2
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "pairs.csv"
    refused = CliRunner().invoke(cli, [*arguments, "--pairs", str(below)])
    assert (refused.exit_code, str(below) in refused.stderr) == (1, True)
    both = ["--pairs", "new.csv", "--summary", str(Path("new.csv").absolute())]
    assert CliRunner().invoke(cli, [*arguments, *both]).exit_code == 2
    assert CliRunner().invoke(cli, ["compare", two.names[0], two.names[0]]).exit_code == 1


def test_the_page(two: Two, client: TestClient):
    names = dict(zip(("run_a", "run_b"), two.names, strict=True))
    chosen = client.get("/methods", params={"key": two.names})
    assert chosen.url.params["run_b"] == two.names[1]
    assert f"harvest-assets compare {' '.join(two.names)}" in chosen.text
    assert client.get("/api/methods", params=names).json()["pairs"] is None

    found = compare(*two.names, rows=30)
    page = client.get("/methods", params=names)
    assert page.status_code == 200
    best = found.pairs.row(0, named=True)
    for run, key in zip(two.names, (best["component_a"], best["component_b"]), strict=True):
        address = f"/run/{run}/component/{key}"
        assert f'href="{address}"' in page.text
        assert client.get(address).status_code == 200
    assert page.text.count('class="bar other"') == len(
        np.unique(np.floor(np.log10(two.saes_fire.mean((0, 1))[two.saes_fire.any((0, 1))]) * 4))
    )
    layer = client.get("/methods", params={**names, "layer": "h.1.attn.q_proj"}).text
    assert f"component/{two.names[0]}" not in layer
    assert "component/h.1.attn.q_proj:" in layer
    assert "component/h.0.mlp.up_proj:" not in layer
    value = client.get("/api/methods", params={**names, "n_pairs": 2}).json()
    assert value == found.as_json(2)
    assert "/methods?run_a=" in client.get(f"/run/{two.names[0]}").text


def test_what_cannot_be_compared_is_said(two: Two, client: TestClient):
    for name in ("nothing", "../harvest", two.names[0]):
        params = {"run_a": two.names[0], "run_b": name}
        page = client.get("/methods", params=params)
        assert page.status_code == 200
        assert 'class="banner warns"' in page.text
        assert name in client.get("/api/methods", params=params).json()["error"]
    assert "Choose two" in client.get("/methods", params={"run_a": two.names[0]}).text


def test_what_does_not_fit_into_memory_is_refused_with_numbers(two: Two, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("harvest_assets.comparison.source.available_memory", lambda *_, **__: 1000)
        with pytest.raises(HarvestError, match=rf"{two.names[0]}.*1\.0 kB"):
            compare(*two.names, rows=30)
    there = SimpleNamespace(available=1000)
    monkeypatch.setattr("harvest_assets.comparison.joint_pass.psutil.virtual_memory", lambda: there)
    fires = [it[:20].sum() for it in (two.spd_fires, two.saes_fire)]
    with pytest.raises(HarvestError, match=f"{sum(fires):,} firings .*--rows"):
        compare(*two.names, rows=20)
    with pytest.raises(HarvestError, match="--rows"):
        compare(*two.names, rows=30)
    assert compare_known(two.spd.layout, two.saes.layout).pairs is None
