"""The pages as a client gets them: who may ask, what is escaped, what is on them."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from rich.filesize import decimal
from starlette.testclient import TestClient

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.harvester.histogram import bin_edges
from harvest_assets.viewer import charts
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.finished import FinishedHarvest
from harvest_assets.viewer.library import Library
from harvest_assets.viewer.table import TableQuery, order
from harvest_assets_tests import oracle
from harvest_assets_tests.viewer.hostile import TEXTS

KEY = "h.0.mlp.c_fc:1"
RUN = "/run/hostile"


class Elements(HTMLParser):
    """The tags and attributes of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.addresses: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.addresses += [value for name, value in attrs if name in ("href", "src", "action")]

    def handle_data(self, data):
        self.words += data


PAGES = [
    RUN,
    "/harvests",
    f"{RUN}?sort=reads&dead=1",
    f"{RUN}?min=%22%3E%3Cimg+src%3Dx%3E&max=%3Cscript%3E",
    f"{RUN}?q=%3Cscript%3E&token=%22%3E%3Cimg+src%3Dx%3E&layer=%27",
    f"{RUN}/component/{KEY}",
    f"{RUN}/component/{KEY}?examples=ci&shade=act&lines=full&reads_by=bottom&fires_by=pmi",
    f"{RUN}/component/{KEY}?examples=activation",
    f"{RUN}/component/{KEY}?examples=intervals&shade=act&page=2",
    f"{RUN}/component/{KEY}?examples=%3Cscript%3E&page=99999999999999",
    f"{RUN}/component/h.0.mlp.c_fc:0",
    f"/compare?run_a=hostile&a={KEY}&run_b=other&b={KEY}",
    f"/compare?run_a=hostile&a={KEY}&run_b=hostile&b=h.3.mlp.c_fc:2",
    f"/compare?run_a=hostile&a={KEY}&b=%3Cb%3E",
    f"{RUN}/export.html?key={KEY}&key=h.3.mlp.c_fc:2",
    "/methods?run_a=hostile&run_b=other",
    "/methods?run_a=hostile&run_b=%3Cscript%3E&layer=%22%3E%3Cimg+src%3Dx%3E",
]


@pytest.mark.parametrize("address", PAGES)
def test_a_page_holds_nothing_that_tokens_brought(client, address: str):
    answer = client.get(address)
    assert answer.status_code == 200
    page = Elements(answer.text)
    ours = "html head meta title link script style body a header button main div dl dt dd span svg"
    ours += " text line rect h1 h2 h3 section table thead tbody tr th td small p ul ol li bdi i b"
    ours += " abbr form label input select option caption nav dialog article"
    ours += " details summary textarea circle"
    assert page.tags <= set(ours.split())
    assert not {name for name in page.attributes if name.startswith("on") or name == "style"}
    assert all(re.match(r"[/#?]", where) for where in page.addresses)
    for _, body in re.findall(r"<script([^>]*)>(.*?)</script>", answer.text, re.DOTALL):
        assert body == ""
    assert len(answer.text) < 500_000  # a token of 10,000 characters is cut


def test_headers_allow_nothing_foreign(client):
    for address in (RUN, "/static/viewer.js", "/nowhere", f"{RUN}/export.html?key={KEY}"):
        headers = client.get(address).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"host": "localhost:3100"}, True),
        ({"host": "[::1]:3100"}, True),
        ({"host": "evil.example:3100"}, False),
        ({"host": "127.0.0.1.evil.example"}, False),
        ({"host": ""}, False),
        ({"origin": "http://127.0.0.1:3100"}, True),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, True),
        (
            {
                "sec-fetch-site": "cross-site",
                "sec-fetch-mode": "navigate",
                "sec-fetch-dest": "iframe",
            },
            False,
        ),
    ],
)
def test_only_the_own_origin_is_answered(client, headers: dict[str, str], allowed: bool):
    assert (client.get(RUN, headers=headers).status_code == 200) == allowed


def test_only_get_and_head_are_allowed(client):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert client.request(method, RUN).status_code == 403


@pytest.mark.parametrize(
    ("address", "status", "named"),
    [
        ("/run/nothing", 404, "has not been harvested"),
        ("/run/..%2F..%2Fetc", 404, ""),
        (f"{RUN}/component/h.0:77777", 404, "no component"),
        (f"{RUN}/table.csv?min=lots", 400, "write 0.01 or 1%"),
        (f"{RUN}/export.html", 400, "1 to 100"),
        ("/static/..%2fpages.py", 404, ""),
        ("/nowhere", 404, ""),
    ],
)
def test_an_error_is_a_page(client, address: str, status: int, named: str):
    answer = client.get(address)
    assert answer.status_code == status
    assert named in answer.text


def test_scores_on_the_page_are_the_oracles(client, paths: HarvestLayout):
    stats = torch.load(paths.token_stats, weights_only=True)
    place = stats["component_keys"].index(KEY)
    scores = oracle.token_scores(
        stats["output_counts"][place].double().numpy(),
        stats["output_totals"].numpy(),
        float(stats["firing_counts"][place]),
        stats["n_tokens"],
    )
    best = max(scores, key=lambda token: scores[token].pmi)
    page = client.get(f"{RUN}/component/{KEY}?predicts_by=pmi").text
    row = page[page.index('id="predicts"') :]
    row = row[row.index("<tbody>") : row.index("</tr>", row.index("<tbody>"))]
    assert f"{scores[best].pmi:.2f}" in row
    assert f"{scores[best].lift:.2f}" in row
    counts = torch.load(paths.component_correlations, weights_only=True)
    together = counts["count_ij"][place]
    jaccard = {
        j: oracle.correlation(
            "jaccard",
            int(together[j]),
            int(counts["count_i"][place]),
            int(counts["count_i"][j]),
            counts["count_total"],
        )
        for j in together.nonzero().flatten().tolist()
        if j != place
    }
    first = counts["component_keys"][max(jaccard, key=lambda j: (jaccard[j], -j))]
    fires = page[page.index('id="fires"') :]
    assert re.search(r'class="key"><a href="[^"]*">([^<]*)', fires)[1] == first


def test_an_address_with_a_key_leads_to_its_component(client):
    answer = client.get(RUN, params={"q": KEY}, follow_redirects=False)
    assert answer.headers["location"] == f"{RUN}/component/{KEY}"


def test_queries_choose_what_loops_choose(paths: HarvestLayout):
    harvest = FinishedHarvest(paths)
    rows = harvest.frame.to_dicts()

    def texts(row) -> list[str]:
        return [TEXTS[i] for i in (*row["reads"], *row["predicts"])]

    cases = {
        "": lambda row: row["firing_count"] > 0,
        "dead=1": lambda _: True,
        "layer=h.2.mlp.c_fc": lambda row: row["layer"] == "h.2.mlp.c_fc" and row["firing_count"],
        "q=H.1": lambda row: "h.1" in row["component_key"] and row["firing_count"],
        "q=h1m mlpcfc": lambda row: row["layer"] == "h.1.mlp.c_fc" and row["firing_count"],
        "q=CFC:1": lambda row: row["component_idx"] == 1 and row["firing_count"],
        "q=h.2.mlp:12": lambda row: row["layer"][:3] == "h.2" and row["component_idx"] == 12,
        "q=mlp:99999999999999999999": lambda _: False,
        "q=c_fc:": lambda row: row["firing_count"],
        "min=0.1%25&max=0.1": lambda row: 0.001 <= row["density"] <= 0.1 and row["firing_count"],
        "token=THE": lambda row: any("the" in t for t in texts(row)) and row["firing_count"],
        'token="the"': lambda row: "the" in texts(row) and row["firing_count"],
    }
    for address, wanted in cases.items():
        params = dict(part.replace("%25", "%").split("=", 1) for part in address.split("&") if part)
        query = TableQuery.of(params)
        found = order(harvest, query).tolist()
        assert set(found) == {i for i, row in enumerate(rows) if wanted(row)}, address
        values = [rows[i]["informativeness"] for i in found]
        assert values == sorted(values, reverse=True)
        again = TableQuery.of(dict(part.split("=") for part in query.params().split("&") if part))
        assert again.min == query.min
    assert TableQuery.of({"sort": "telling"}) == TableQuery(sort="informativeness")
    for sort in ("density", "mean_ci"):
        values = [rows[i][sort] for i in order(harvest, TableQuery(sort=sort, reverse=True))]
        assert values == sorted(values)
    words = [TEXTS[rows[i]["reads"][0]].lstrip() for i in order(harvest, TableQuery(sort="reads"))]
    assert words == sorted(words)


@pytest.mark.parametrize("field", ["min", "max"])
def test_a_filter_that_cannot_be_read_keeps_the_page(client, field: str):
    answer = client.get(RUN, params={field: "lots<b>", "q": "h.1", "sort": "density"})
    assert answer.status_code == 200
    same = client.get(RUN, params={"q": "h.1", "sort": "density"}).text
    rows = re.findall(r'name="key" value="([^"]+)"', answer.text)
    assert rows == re.findall(r'name="key" value="([^"]+)"', same)
    assert "write 0.01 or 1%" in answer.text
    assert 'value="lots&lt;b&gt;"' in answer.text  # what was typed can be corrected
    assert "write 0.01 or 1%" not in same


def test_all_harvests_are_one_page(paths: HarvestLayout):
    client = TestClient(make_app(Library(), None), base_url="http://127.0.0.1:3100")
    page = client.get("/").text
    assert page == client.get("/harvests").text
    for name in ("hostile", "other"):
        assert f'href="/run/{name}"' in page
        assert client.get(f"/run/{name}").status_code == 200
    size = sum(file.stat().st_blocks * 512 for file in paths.root.rglob("*") if file.is_file())
    assert decimal(size) in page
    assert 'href="/harvests"' in client.get(RUN).text


def test_no_harvest_is_a_page_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path))
    client = TestClient(make_app(Library(), None), base_url="http://127.0.0.1:3100")
    assert "no harvests" in client.get("/").text


def test_tables_are_exported_whole(client, paths: HarvestLayout):
    frame = FinishedHarvest(paths).frame.filter(pl.col("firing_count") > 0)
    parquet = pl.read_parquet(io.BytesIO(client.get(f"{RUN}/table.parquet?sort=layer").content))
    assert parquet["component_key"].to_list() == frame["component_key"].to_list()
    assert parquet["firing_count"].to_list() == frame["firing_count"].to_list()
    assert parquet["reads"].to_list() == [[TEXTS[i] for i in row] for row in frame["reads"]]
    lines = list(csv.DictReader(io.StringIO(client.get(f"{RUN}/table.csv?sort=layer").text)))
    assert [line["component_key"] for line in lines] == frame["component_key"].to_list()
    assert not any(line["reads"].startswith(("=", "+", "@")) for line in lines)
    assert list(lines[0])[6:] == ["telling", "reads", "predicts"]
    chosen = client.get(f"{RUN}/table.csv?key={KEY}").text
    assert [row["component_key"] for row in csv.DictReader(io.StringIO(chosen))] == [KEY]


def test_a_run_with_a_name_that_no_header_takes(paths: HarvestLayout, tmp_path, monkeypatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path))
    shutil.copytree(paths.root, HarvestLayout.of('é"; x=1').root)
    client = TestClient(make_app(Library(), 'é"; x=1'), base_url="http://localhost")
    assert client.get("/").status_code == 200
    answer = client.get("/run/é%22%3B x=1/table.csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="____x_1.csv"'


def test_another_runs_counterparts_share_tokens(client, paths: HarvestLayout):
    address = f"/compare?run_a=hostile&a={KEY}&run_b=other"
    other = HarvestLayout.of("other")
    config = json.loads(other.config.read_text())
    mine, good = FinishedHarvest(paths), other.config.read_text()
    assert "most tokens are shared" not in client.get(address).text  # other tokenizers
    try:
        same = {**config, "tokenizer_name": mine.config["tokenizer_name"]}
        other.config.write_text(json.dumps(same))
        page = client.get(address).text
    finally:
        other.config.write_text(good)
    named = re.findall(r"h\.\d+\.mlp\.c_fc:\d+", page[page.index("share the most tokens") :])[:1]
    reads, predicts = (set(ids) for ids in mine.informative_tokens(mine.places[KEY]))
    theirs = FinishedHarvest(other)

    def shared(row) -> int:
        return len(reads & set(row["reads"])) + len(predicts & set(row["predicts"]))

    rows = theirs.frame.filter(pl.col("layer") == KEY.partition(":")[0]).to_dicts()
    best = max((row for row in rows if row["firing_count"]), key=shared)
    assert named == [best["component_key"]]


def firing_values(harvest: FinishedHarvest, order: str, name: str) -> list[float]:
    return [getattr(e, name)[10] for e in harvest.examples(harvest.places[KEY], order)]


@pytest.mark.parametrize(("shade", "name"), [("ci", "ci_values"), ("act", "component_acts")])
def test_groups_by_interval_are_of_the_uniform_sample(
    client, paths: HarvestLayout, shade: str, name: str
):
    page = client.get(f"{RUN}/component/{KEY}?examples=intervals&shade={shade}").text
    page = page[page.index('id="examples"') : page.index('id="reads"')]
    assert "sampled uniformly from its firings" in page
    values = firing_values(FinishedHarvest(paths), "sample", name)
    counts, edges = np.histogram(values, bins=5)
    groups = page.split("<h3>")[1:]
    for group, count, low, high in zip(
        groups, counts[::-1], edges[-2::-1], edges[:0:-1], strict=True
    ):
        assert f"{count} of {len(values)} sampled" in group
        ends = re.match(r"\S+ (\S+) to (\S+) ", group)
        assert [float(end) for end in ends.groups()] == pytest.approx([low, high], abs=0.01)
        firing = re.findall(r'class="mid">.*?data-v="(\S+) (\S+) ', group, re.DOTALL)
        inside = [v for v in values if low <= v < high or v == high == edges[-1]]
        shown = [float(pair[shade == "act"]) for pair in firing]
        assert shown == pytest.approx(inside[:4], rel=1e-3)


@pytest.mark.parametrize(("shade", "name"), [("ci", "ci_values"), ("act", "component_acts")])
def test_shades_reach_from_zero_to_the_largest_of_all_lists(
    client, paths: HarvestLayout, shade: str, name: str
):
    harvest = FinishedHarvest(paths)
    place = harvest.places[KEY]
    assert harvest.example_orders == ("sample", "ci", "activation")
    largest = max(
        abs(value)
        for order in harvest.example_orders
        for example in harvest.examples(place, order)
        for value in getattr(example, name)
    )
    for choice in (*harvest.example_orders, "intervals"):
        page = client.get(f"{RUN}/component/{KEY}?examples={choice}&shade={shade}").text
        legend = page[page.index('class="legend"') :].partition("</section>")[0]
        assert f"the deepest red is {largest:.2f}" in legend
        assert (f"-{largest:.2f}" in legend) == (shade == "act")
        for mark, ci, act in re.findall(
            r'class="t(?: hot [ns](\d+))?[^"]*" data-v="(\S+) (\S+) ', page
        ):
            value = abs(float(act if shade == "act" else ci))
            assert 12 * value / largest == pytest.approx(int(mark or 0) - 0.5, abs=0.51)


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


def test_values_above_one_have_a_place_in_the_chart():
    svg = charts.ci_against_density(np.array([0.5, 0.1]), np.array([20.0, 0.01]))
    assert "10²" in svg
    assert "mean CI 2e+01" in svg or "mean CI 3e+01" in svg


def test_the_bins_of_a_chart_are_the_harvesters():
    counts = np.arange(64)
    svg = charts.ci_histogram(counts)
    for b, firings in ((1, "1 firing"), (30, "30 firings"), (62, "62 firings")):
        assert f"CI {bin_edges()[b - 1]:.2g} to {bin_edges()[b]:.2g}: {firings} (" in svg


def test_bars_of_the_density_chart_hold_all_that_fired():
    density = np.array([0.0, 1e-7, 0.001, 0.0011, 1.0])
    svg = charts.density_histogram(density, lambda low, high: f"?{low}-{high}")
    counts = [int(n) for n in re.findall(r"<title>(\d+) components?", svg)]
    assert sum(counts) == 4
    assert charts.density_histogram(np.zeros(3)).startswith("<svg")
    assert "&lt;b&gt;" in charts.layer_bars([("<b>", 1.0, "1")], "L0")


def test_small_charts_stay_small():
    random = np.random.default_rng(0)
    dense = charts.small_density_histogram(10 ** random.uniform(-9, 0, 40_000))
    many = charts.small_bars(
        random.random(999).tolist(), [(0.0, "a" * 99), (1.0, "<b>" + "a" * 99)]
    )
    empty = charts.small_bars([], [])
    for svg in (dense, many, empty, charts.small_bars([0.0], [(0.0, "x")])):
        assert len(charts.as_image(svg, "components by density")) < 1000
        assert "<b>" not in svg
