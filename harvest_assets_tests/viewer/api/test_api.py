"""The API, against the harvest's own files."""

from __future__ import annotations

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import torch
from starlette.testclient import TestClient

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.viewer.api.app import ENDPOINTS
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.contexts import build as building
from harvest_assets.viewer.derived import Derived, Work, compute, folder_of
from harvest_assets.viewer.harvest import Progress
from harvest_assets.viewer.library import Library
from harvest_assets_tests import oracle
from harvest_assets_tests.viewer.hostile import TEXTS

API = "/api/run/hostile"
KEY = "h.0.mlp.c_fc:1"


def test_pages_do_not_load_fastapi():
    code = (
        "import sys, harvest_assets.viewer.app; assert not {'fastapi', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_harvests_and_one_of_them(client, paths: HarvestLayout):
    listed = client.get("/api/harvests").json()
    assert [it["name"] for it in listed] == ["hostile", "other"]
    answer = client.get(API).json()
    config = json.loads(paths.config.read_text())
    assert answer["config"] == config
    assert answer["n_tokens"] == config["n_tokens"]
    rows = pq.read_table(paths.component_index).to_pylist()
    assert answer["n_components"] == len(rows)
    assert answer["alive"] == sum(row["firing_count"] > 0 for row in rows)
    by_layer = {it["layer"]: it for it in answer["layers"]}
    for layer, it in by_layer.items():
        mine = [row for row in rows if row["layer"] == layer]
        density = sum(row["firing_count"] for row in mine) / config["n_tokens"]
        assert it["components"] == len(mine)
        assert it["l0"] == pytest.approx(density)


def test_components_are_those_of_the_table(client, paths: HarvestLayout):
    rows = pq.read_table(paths.component_index).to_pylist()
    alive = sorted((r for r in rows if r["firing_count"]), key=lambda r: -r["firing_count"])
    pages = [client.get(f"{API}/components?sort=density&page={p}").json() for p in (1, 2, 3, 4)]
    found = [row for page in pages for row in page["components"]]
    assert [row["key"] for row in found] == [row["component_key"] for row in alive]
    assert {(page["n"], page["n_pages"]) for page in pages} == {(len(alive), 3)}
    assert pages[3]["components"] == []
    for row, wanted in zip(found, alive, strict=True):
        assert row["mean_ci"] == wanted["mean_ci"]
        assert [t["id"] for t in row["reads"]] == wanted["telling_input_tokens"]
        assert [t["text"] for t in row["predicts"]] == [
            TEXTS[i] for i in wanted["telling_output_tokens"]
        ]
    one = client.get(f"{API}/components", params={"q": "h2mlp", "min": "0.1%", "dead": "1"}).json()
    wanted = [r for r in rows if r["layer"][:3] == "h.2" and r["firing_count"] >= 50_000]
    assert {row["key"] for row in one["components"]} == {r["component_key"] for r in wanted}


def test_a_component(client, paths: HarvestLayout):
    lines = map(json.loads, paths.components.read_text().splitlines())
    line = next(line for line in lines if line["component_key"] == KEY)
    answer = client.get(f"{API}/component/{KEY}").json()
    examples = answer["examples"]
    assert examples["n"] == len(line["activation_examples"])
    for mine, e in zip(examples["examples"], line["activation_examples"], strict=False):
        assert (mine["token_ids"], mine["ci"]) == (e["token_ids"], e["ci_values"])
        assert mine["act"] == e["component_acts"]
        assert "".join(mine["texts"]) == "".join(TEXTS[i] for i in e["token_ids"] if i >= 0)
    counts = torch.load(paths.component_correlations, weights_only=True)
    keys = counts["component_keys"]
    i, n = keys.index(KEY), counts["count_i"].tolist()
    together = counts["count_ij"][i].tolist()
    values = {
        keys[j]: oracle.correlation("jaccard", n_ij, n[i], n[j], counts["count_total"])
        for j, n_ij in enumerate(together)
        if n_ij and j != i
    }
    best = sorted(values, key=lambda key: (-values[key], keys.index(key)))[:20]
    assert [it["key"] for it in answer["fires_with"]] == best
    assert answer["fires_with"][0]["jaccard"] == pytest.approx(values[best[0]])
    later = client.get(f"{API}/component/{KEY}?examples=activation&page=2").json()["examples"]
    assert (later["order"], later["n"], later["examples"]) == ("activation", 20, [])


def test_contexts_are_computed_and_then_found(client, tmp_path, monkeypatch):
    work = Work(0.25)
    monkeypatch.setattr("harvest_assets.viewer.derived.viewer_cache_root", lambda: tmp_path)
    monkeypatch.setattr(Derived, "_compute", lambda *_: None)
    monkeypatch.setattr("harvest_assets.viewer.derived.Work", lambda: work)
    answer = client.get(f"{API}/contexts?q=the")
    assert (answer.status_code, answer.json()) == (202, {"share": 0.25})
    harvest = Library().get("hostile")
    folder = folder_of(tmp_path, harvest, "contexts")
    monkeypatch.setattr(building, "MAX_TOKENS", 1)  # one context of each list
    compute(harvest, "contexts", folder, lambda _: None)
    answer = client.get(f"{API}/contexts", params={"q": "<script>window", "case": "1"})
    assert answer.status_code == 200
    found = answer.json()
    assert found["n"] > 0
    assert all("<script>window" in hit["text"] for hit in found["hits"])


@pytest.mark.parametrize(
    ("address", "status", "named"),
    [
        ("/api/run/nothing", 404, "nothing"),
        ("/api/run/..%2F..%2Fetc", 404, ""),
        ("/api/nowhere", 404, ""),
        (f"{API}/component/h.0:77777", 404, "h.0:77777"),
        (f"{API}/component/{KEY}?examples=best", 400, "examples"),
        (f"{API}/component/{KEY}?page=0", 400, "page"),
        (f"{API}/component/{KEY}?page=99999999999999999999", 400, "page"),
        (f"{API}/components?min=lots", 400, "lots"),
        (f"{API}/components?dead=yes", 400, "dead"),
        (f"{API}/components?listed=..%2Fa", 404, ""),
        (f"{API}/components?sort=densitty", 400, "densitty"),
        (f"{API}/components?sort=score_none", 400, "score_none"),
        (f"{API}/prompt?text=a&component=h.0:77777", 400, "h.0:77777"),
        (f"{API}/weights/h.0:77777", 404, "h.0:77777"),
        (f"{API}/contexts", 400, "q"),
        (f"{API}/contexts?q=a&pgae=2", 400, "pgae"),
        (f"{API}/components?minimum=2", 400, "minimum"),
        (f"{API}/contexts?q={'a' * 1001}", 400, "q"),
    ],
)
def test_an_error_is_one_sentence(client, address: str, status: int, named: str):
    answer = client.get(address)
    assert answer.status_code == status
    problem = answer.json()
    assert problem["status"] == status
    assert named in problem["error"]
    assert "\n" not in problem["error"]


def test_rules_are_those_of_pages(client):
    for headers in (
        {"host": "evil.example"},
        {"origin": "http://evil.example"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    ):
        for address in ("/api/harvests", "/api/openapi.json"):
            assert client.get(address, headers=headers).status_code == 403
    assert client.post("/api/harvests").status_code == 403
    answer = client.get("/api/harvests")
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_every_endpoint_is_described(client):
    described = client.get("/api/openapi.json").json()
    page = client.get("/api").text
    assert described["servers"] == [{"url": "/api"}]
    for endpoint in ENDPOINTS:
        path = endpoint.path.replace(":path", "")
        it = described["paths"][path][endpoint.method.lower()]
        assert it["description"]
        for parameter in it.get("parameters", ()):
            assert parameter.get("description"), parameter
        assert it["description"] in page
        assert f"{endpoint.method} /api{path}" in page
        may_be = {"202": endpoint.computed, "503": endpoint.model is not None}
        expected = {"200", "4XX", *(status for status, is_so in may_be.items() if is_so)}
        assert set(it["responses"]) == expected
    assert "<script>" not in page


@pytest.mark.usefixtures("paths")
def test_a_harvest_in_progress_has_no_contexts(monkeypatch: pytest.MonkeyPatch):
    library = Library()
    harvest = library.get("hostile")
    monkeypatch.setattr(harvest, "progress", Progress(1, 2, ()))
    client = TestClient(make_app(library, None), base_url="http://localhost")
    answer = client.get(f"{API}/contexts?q=a")
    assert answer.status_code == 404
    assert "hostile is in progress" in answer.json()["error"]
    assert "once it is complete" in client.get("/run/hostile/contexts?q=a").text
