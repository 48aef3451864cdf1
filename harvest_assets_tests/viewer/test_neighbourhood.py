"""The graph of a component's nearest neighbours, against the stored counts."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
import torch

from harvest_assets.viewer.finished import FinishedHarvest
from harvest_assets_tests import oracle

KEY = "h.0.mlp.c_fc:1"
PAGE = f"/run/hostile/component/{KEY}"


def test_lines_are_the_nearest_pairs(client, paths):
    counts = torch.load(paths.component_correlations, weights_only=True)
    keys, n = counts["component_keys"], counts["count_i"].tolist()

    def jaccard(a: str, b: str) -> float:
        i, j = keys.index(a), keys.index(b)
        together = int(counts["count_ij"][i, j])
        return oracle.correlation("jaccard", together, n[i], n[j], 1) if together else 0.0

    graph = re.search(r'<div class="graph">(.*?)</div>', client.get(PAGE).text, re.DOTALL)[1]
    values = {key: jaccard(KEY, key) for key in keys if key != KEY}
    near = sorted(values, key=lambda key: (-values[key], keys.index(key)))[:12]
    linked = re.findall(r'href="[^"]*/component/([^"?]+)', graph)
    assert linked == sorted(near, key=keys.index)
    lines = {
        frozenset((a, b)): float(value)
        for a, b, value in re.findall(r"<title>(\S+) and (\S+): Jaccard ([\d.]+)</title>", graph)
    }
    assert {frozenset((KEY, key)) for key in near} <= set(lines)
    pairs = {frozenset(p): jaccard(*sorted(p, key=keys.index)) for p in combinations(near, 2)}
    nearest = sorted((v for v in pairs.values() if v), reverse=True)[:24]
    drawn = sorted((v for p, v in lines.items() if KEY not in p), reverse=True)
    assert drawn == pytest.approx(nearest, abs=0.005)
    for pair, value in lines.items():
        wanted = values[min(pair - {KEY})] if KEY in pair else pairs[pair]
        assert value == pytest.approx(wanted, abs=0.005)


def test_without_neighbours_there_is_no_graph(client, monkeypatch: pytest.MonkeyPatch):
    assert 'class="graph"' not in client.get("/run/hostile/component/h.0.mlp.c_fc:0").text
    monkeypatch.setattr(FinishedHarvest, "counts_cofirings", False)
    page = client.get(PAGE)
    assert page.status_code == 200
    assert 'class="graph"' not in page.text
    assert "--no-cooccurrence" in page.text
