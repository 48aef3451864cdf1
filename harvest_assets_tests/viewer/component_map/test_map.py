"""The map: its graph against the stored counts, its layout on graphs with a known answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import viewer_cache_root
from harvest_assets.viewer.component_map.build import NEIGHBOURS, build, layout, nearest
from harvest_assets.viewer.derived import compute, folder_of
from harvest_assets.viewer.finished import FinishedHarvest
from harvest_assets.viewer.library import Library
from harvest_assets_tests import oracle
from harvest_assets_tests.viewer.hostile import TEXTS

PAGE = "/run/hostile/map"


def quiet(_share: float) -> None:
    pass


@pytest.fixture
def harvest(paths):
    harvest = Library().get(paths.root.name)
    folder = folder_of(viewer_cache_root(), harvest, "map")
    if not folder.exists():
        compute(harvest, "map", folder, quiet)
    return harvest


def test_edges_are_the_nearest_by_the_counts(harvest, paths):
    counts = torch.load(paths.component_correlations, weights_only=True)
    n, together = counts["count_i"].tolist(), counts["count_ij"].tolist()
    alive = [i for i, firings in enumerate(n) if firings]
    wanted = set()
    for a, i in enumerate(alive):
        near = {
            b: oracle.correlation("jaccard", together[i][j], n[i], n[j], 1)
            for b, j in enumerate(alive)
            if j != i and together[i][j]
        }
        for b in sorted(near, key=lambda b: (-near[b], b))[:NEIGHBOURS]:
            wanted.add((min(a, b), max(a, b)))
    one, other, _ = nearest(harvest, np.array(alive), quiet)
    assert len(one) == len(wanted)
    assert set(zip(one.tolist(), other.tolist(), strict=True)) == wanted


def test_groups_that_fire_together_are_apart_from_others():
    """Four groups of 25, all pairs of which are joined, and one edge between two of them."""
    pairs = [(i, j) for g in range(0, 100, 25) for i in range(g, g + 25) for j in range(g, i)]
    one, other = (np.array(ends) for ends in zip(*pairs, (0, 99), strict=True))
    xy = layout(100, (other, one, np.ones(len(one))), quiet)
    assert ((xy >= 0) & (xy <= 1)).all()
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(apart, 9)
    same = apart.argmin(1) // 25 == np.arange(100) // 25
    assert same.mean() > 0.95
    again = layout(100, (other, one, np.ones(len(one))), quiet)
    assert np.array_equal(xy, again)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_components_have_a_place(n: int):
    none = np.zeros(0, np.int64)
    xy = layout(n, (none, none, np.zeros(0)), quiet)
    assert xy.shape == (n, 2)
    assert np.isfinite(xy).all()


@pytest.mark.usefixtures("harvest")
def test_the_page_and_the_api(client, paths):
    rows = pq.read_table(paths.component_index).to_pylist()
    alive = {row["component_key"]: row for row in rows if row["firing_count"]}
    n_tokens = json.loads(paths.config.read_text())["n_tokens"]
    for colour in ("layer", "density", "label", "star"):
        answer = client.get(f"/api{PAGE}?colour={colour}").json()
        assert answer["keys"] == list(alive)
        page = client.get(f"{PAGE}?colour={colour}").text
        assert f'data-points="/api{PAGE}?colour={colour}"' in page
        names = [answer["groups"][i]["name"] for i in answer["group"]]
        page = page[page.index('class="groups"') :]
        for group in answer["groups"]:
            assert group["n"] == names.count(group["name"])
            name = group["name"]
            shown = f">{name}</a>" in page or f"</svg>{name} <" in page
            assert shown == bool(group["n"])
        for name, row in zip(names, alive.values(), strict=True):
            if colour == "layer":
                assert name == row["layer"]
            elif colour == "density":
                low, *_ = [float(x) / 100 for x in re.findall(r"[\d.]+", name)]
                density = row["firing_count"] / n_tokens
                assert density < low if name.startswith("below") else density >= low
            else:
                assert name.startswith("no ")
    row = alive[answer["keys"][0]]
    assert TEXTS[row["telling_input_tokens"][0]][:5] in answer["tokens"][0].replace("·", " ") or (
        "U+" in answer["tokens"][0]
    )
    assert not any(c in "".join(answer["tokens"]) for c in "\u202e\x00\n")
    hostile = client.get(PAGE, params={"colour": "<script>"})
    assert hostile.text == client.get(PAGE).text
    assert client.get(f"/api{PAGE}?colour=nose").status_code == 400


def test_a_label_and_a_star_are_colours(harvest, client, monkeypatch):
    import polars as pl

    from harvest_assets.viewer.component_map import points
    from harvest_assets.viewer.interpreted import interpreted

    written = interpreted(harvest)
    n = len(harvest.frame)
    frame = written.frame.with_columns(
        label_source=pl.Series(["person", "model"] + [None] * (n - 2), dtype=pl.String),
        starred=pl.Series([False, True] + [False] * (n - 2)),
    )

    class Written:
        def __init__(self) -> None:
            self.frame = frame

    monkeypatch.setattr(points, "interpreted", lambda _: Written())
    labels = client.get(f"/api{PAGE}?colour=label").json()
    stars = client.get(f"/api{PAGE}?colour=star").json()
    # The first component never fired, so that it is on no map.
    assert [group["n"] for group in labels["groups"]][1:] == [0, 1]
    assert labels["group"][0] == 2
    assert stars["group"] == [1] + [0] * (len(stars["keys"]) - 1)


def test_without_cofirings_there_is_no_map(harvest, client, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(FinishedHarvest, "counts_cofirings", False)
    page = client.get(PAGE)
    assert page.status_code == 200
    assert "--no-cooccurrence" in page.text
    assert "<canvas" not in page.text
    with pytest.raises(HarvestError, match="hostile"):
        build(harvest, tmp_path, quiet)
