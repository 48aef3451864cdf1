"""What the pages show is what the files hold."""

from __future__ import annotations

import csv
import io
import json
import re

import numpy as np
import polars as pl
import pytest
import torch
from rich.filesize import decimal
from starlette.testclient import TestClient

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.finished import FinishedHarvest
from harvest_assets.viewer.library import Library
from harvest_assets.viewer.table import TableQuery, order
from harvest_assets_tests import oracle
from harvest_assets_tests.viewer.hostile import KEY, RUN, TEXTS


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
