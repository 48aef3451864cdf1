"""Harvests that lack what newer ones have, and those of the original harvester."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import polars as pl
import pyarrow.parquet as pq
from starlette.testclient import TestClient

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.finished import FinishedHarvest
from harvest_assets.viewer.library import Library
from harvest_assets.viewer.table import TableQuery, order
from harvest_assets_tests.viewer.hostile import KEY


def test_a_harvest_without_the_list_does_not_offer_it(paths: HarvestLayout, tmp_path, monkeypatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path))
    for name in ("new", "older"):
        shutil.copytree(paths.root, HarvestLayout.of(name).root)
    HarvestLayout.of("older").highest_activation_examples.unlink()
    client = TestClient(make_app(Library(), "older"), base_url="http://localhost")
    pages = {name: client.get(f"/run/{name}/component/{KEY}") for name in ("new", "older")}
    assert "examples=activation" in pages["new"].text
    assert "examples=activation" not in pages["older"].text
    fallen_back = client.get(f"/run/older/component/{KEY}?examples=activation")
    assert fallen_back.text == pages["older"].text
    compare = f"/compare?run_a=new&a={KEY}&run_b=%s&b={KEY}&examples=activation"
    assert "largest activation" in client.get(compare % "new").text
    both = client.get(compare % "older")
    assert (both.status_code, "largest activation" in both.text) == (200, False)
    for name, n_lists in (("new", 3), ("older", 2)):
        export = client.get(f"/run/{name}/export.html?key={KEY}&examples=activation").text
        assert export.count("<h2>Examples") == n_lists


def test_a_harvest_without_index_is_read_once(paths: HarvestLayout, tmp_path, monkeypatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path))
    old = HarvestLayout.of("old")
    shutil.copytree(paths.root, old.root)
    for table in old.activation_contexts.glob("*.parquet"):
        table.unlink()
    indexed, scanned = FinishedHarvest(paths), FinishedHarvest(old)
    same = ["component_key", "firing_count", "density", "mean_ci", "flat_index"]
    assert scanned.frame.select(same).to_dicts() == indexed.frame.select(same).to_dicts()
    for place in (0, 1, 70):
        found = scanned.examples(place, "sample")
        assert all(e.row is None for e in found)
        wanted = indexed.examples(place, "sample")
        assert found == [replace(e, row=None, position=None) for e in wanted]
    highest = [max(e.ci_values[10] for e in scanned.examples(1, "ci"))]
    assert scanned.examples(1, "ci")[0].ci_values[10] == highest[0]
    assert scanned.ci_histogram(1) is None


def test_an_index_without_the_newer_columns(paths: HarvestLayout, tmp_path, monkeypatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path))
    older = HarvestLayout.of("older")
    shutil.copytree(paths.root, older.root)
    table = pq.read_table(older.component_index)
    pq.write_table(table.select(table.column_names[:9]), older.component_index)
    harvest = FinishedHarvest(older)
    assert not harvest.has_informativeness
    assert harvest.ci_histogram(1) is not None
    densities = harvest.frame["density"][order(harvest, TableQuery())].to_list()
    assert densities == sorted(densities, reverse=True)
    page = TestClient(make_app(Library(), "older"), base_url="http://localhost").get("/run/older")
    assert page.status_code == 200


def test_what_the_original_harvester_wrote(reference_runs, out_dir, monkeypatch):
    """No index, no tokenizer named in config.json, no activations."""
    world = reference_runs / "world"
    monkeypatch.chdir(world)
    run = "s-0ddd38e5"
    shutil.copytree(reference_runs / "expected" / run, out_dir / "harvest" / run)
    shutil.copytree(world / "spd_out" / "runs", out_dir / "runs")
    harvest = FinishedHarvest(HarvestLayout.of(run))
    lines = [json.loads(x) for x in HarvestLayout.of(run).components.read_text().splitlines()]
    assert {line["component_key"] for line in lines} == set(
        harvest.frame.filter(pl.col("firing_count") > 0)["component_key"]
    )
    for line in lines[:3]:
        place = harvest.places[line["component_key"]]
        assert (
            harvest.informative_tokens(place)[0]
            == [t for t, _ in line["input_token_pmi"]["top"]][:5]
        )
        shown = [e.token_ids for e in harvest.examples(place, "sample")]
        assert shown == [e["token_ids"] for e in line["activation_examples"]]
    client = TestClient(make_app(Library(), run), base_url="http://localhost")
    for where in (f"/run/{run}", f"/run/{run}/component/{lines[0]['component_key']}"):
        assert client.get(where).status_code == 200
