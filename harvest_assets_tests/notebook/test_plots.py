"""The numbers behind the figures, against loops over the files; hostile tokens, drawn as text."""

from __future__ import annotations

import json
import math
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import harvest_assets
from harvest_assets.comparison.comparison import Comparison
from harvest_assets.comparison.same_rows import Sameness
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.notebook.harvest import Harvest
from harvest_assets.notebook.plots.of_comparison import PlottedComparison
from harvest_assets_tests.viewer.hostile import TEXTS
from harvest_assets_tests.viewer.synthetic import write_harvest

MARKUP = ["$x^2$", "$\\bad{$", "\\$", "_a_^b^", "中文", "100%"]
KEY, DEAD = "h.0.mlp.c_fc:1", "h.0.mlp.c_fc:0"
CHOSEN = ["h.0.mlp.c_fc:1", "h.3.mlp.c_fc:2", "h.7.mlp.c_fc:0", "h.0.mlp.c_fc:2", DEAD]


@pytest.fixture(scope="module")
def harvest(tmp_path_factory: pytest.TempPathFactory) -> Harvest:
    root = tmp_path_factory.mktemp("plots") / "s-d2ec3bfe"
    write_harvest(root, [*TEXTS, *MARKUP], 60, 6)
    return harvest_assets.open(root)


@pytest.fixture(scope="module")
def counts(harvest: Harvest) -> dict:
    file = HarvestLayout(harvest.path).component_correlations
    return torch.load(file, weights_only=True)


def texts_of(figure) -> list[str]:
    """All texts of a figure, those of labels too."""
    return [text.get_text() for text in figure.findobj(mpl.text.Text)]


def mean_ci_of(harvest: Harvest) -> dict[str, float]:
    lines = map(json.loads, HarvestLayout(harvest.path).components.open())
    return {it["component_key"]: it["mean_ci"] for it in lines}


def test_density_counts_components_in_the_bins_of_the_page(harvest, counts):
    plot = harvest.plot.density()
    n_tokens = counts["count_total"]
    bins = plot.data.rows()
    assert len(bins) == 8 * 6, "eight for each decade of the lowest density to 1"
    expected = [0] * len(bins)
    for firings in counts["count_i"].tolist():
        for b, (start, stop, _) in enumerate(bins):
            expected[b] += start <= firings / n_tokens < stop
    assert plot.data["components"].to_list() == expected
    assert sum(expected) == len(harvest.alive) > 0
    (axes,) = plot.figure.axes
    assert [bar.get_height() for bar in axes.patches] == expected
    page = harvest._repr_html_()
    assert page.count("data:image/svg+xml") == 2
    layer = harvest.layer("h.3.mlp.c_fc")
    assert layer.plot.density().data["components"].sum() == len(layer.alive)


def test_cells_count_components_by_density_and_mean_ci(harvest, counts):
    data = harvest.plot.ci_against_density().data
    means = mean_ci_of(harvest)
    for x0, x1, y0, y1, n in data.iter_rows():
        inside = 0
        for key, firings in zip(counts["component_keys"], counts["count_i"].tolist(), strict=True):
            inside += x0 <= firings / counts["count_total"] < x1 and y0 <= means.get(key, 0) < y1
        assert inside == n > 0
    assert data["components"].sum() == len(harvest.alive)


def test_layers_sum_their_components(harvest, counts):
    plot = harvest.plot.layers()
    fired: dict[str, float] = {}
    for key, firings in zip(counts["component_keys"], counts["count_i"].tolist(), strict=True):
        layer = key.rpartition(":")[0]
        fired[layer] = fired.get(layer, 0) + firings / counts["count_total"]
    assert plot.data["layer"].to_list() == list(fired)
    assert plot.data["l0"].to_list() == pytest.approx(list(fired.values()))
    (axes,) = plot.figure.axes
    assert [bar.get_width() for bar in axes.patches] == plot.data["l0"].to_list()
    assert [label.get_text() for label in axes.get_yticklabels()] == list(fired)


@pytest.mark.parametrize(
    ("by", "score"),
    [
        ("jaccard", lambda ij, i, j, _: ij / (i + j - ij)),
        ("precision", lambda ij, i, _, __: ij / i),
        ("recall", lambda ij, _, j, __: ij / j),
        ("pmi", lambda ij, i, j, n: math.log(ij * n / (i * j))),
    ],
)
def test_the_heat_map_shows_each_pair(harvest, counts, by: str, score):
    plot = harvest.plot.cofiring(CHOSEN, by=by)
    keys, n = counts["component_keys"], counts["count_total"]
    shown = plot.figure.axes[0].images[0].get_array()
    assert plot.data.height == 20
    seen = 0
    for one, other, together, value in plot.data.iter_rows():
        i, j = keys.index(one), keys.index(other)
        n_ij, n_i, n_j = (int(it) for it in (counts["count_ij"][i, j], *counts["count_i"][[i, j]]))
        assert together == n_ij
        cell = shown[CHOSEN.index(one), CHOSEN.index(other)]
        if n_ij:
            assert value == pytest.approx(score(n_ij, n_i, n_j, n)) == cell
            seen += 1
        else:
            assert value is None
            assert cell is np.ma.masked
    assert 0 < seen < 20
    assert all(shown.mask.diagonal())


def test_tokens_have_recall_and_precision(harvest):
    stats = torch.load(HarvestLayout(harvest.path).token_stats, weights_only=True)
    component = harvest[KEY]
    plot = component.plot.tokens(5)
    counts = stats["input_counts"][component.flat_index].tolist()
    best = sorted(range(len(counts)), key=lambda t: (-counts[t], t))[:5]
    assert plot.data["token_id"].to_list() == best
    recall = [counts[t] / component.firing_count for t in best]
    precision = [counts[t] / float(stats["input_totals"][t]) for t in best]
    dots, squares = plot.figure.axes[0].lines
    assert dots.get_xdata().tolist() == pytest.approx(recall)
    assert squares.get_xdata().tolist() == pytest.approx(precision)
    mass = stats["output_counts"][component.flat_index]
    predicted = component.plot.tokens(len(mass), side="predicts").data
    assert sum(predicted["count"]) == pytest.approx(float(mass.double().sum()))


def test_contexts_are_the_stored_examples(harvest):
    line = next(
        it
        for it in map(json.loads, HarvestLayout(harvest.path).components.open())
        if it["component_key"] == KEY
    )
    plot = harvest[KEY].plot.contexts(3)
    for i, example in enumerate(line["activation_examples"][:3]):
        drawn = plot.data.filter(example=i)
        kept = [t for t in example["token_ids"] if t != -1]
        assert drawn["token_id"].to_list() == kept
        middle = drawn.filter(offset=0)
        assert middle["token_id"][0] == example["token_ids"][len(example["token_ids"]) // 2]
        assert drawn["ci"].to_list()[-1] == pytest.approx(example["ci_values"][-1])
    assert set(plot.data["example"]) == {0, 1, 2}
    shaded = harvest[KEY].plot.contexts(1, order="activation", shade="act")
    assert "activation" in " ".join(texts_of(shaded.figure))


def test_a_comparison_is_drawn_from_its_frames():
    random = np.random.default_rng(2)
    densities = {"a": 10 ** random.uniform(-3.5, 0, 50), "b": 10 ** random.uniform(-2, 0, 90)}
    densities["b"][:7] = 0
    rows = [(name, value) for name, found in densities.items() for value in found.tolist()]
    components = pl.DataFrame(rows, ["harvest", "density"], orient="row")
    best = random.random(40)
    pairs = pl.DataFrame({"rank": [1] * 40 + [2] * 9, "jaccard": [*best, *[0.0] * 9]})
    nothing = pl.DataFrame()
    same = Sameness(same_target=True, difference=0.0, warnings=())
    found = Comparison("a", "b", same, nothing, nothing, components, pairs)
    plot = PlottedComparison.of(found).plot.density()
    assert plot.data.height == 2 * 4 * 4, "four bins for each decade of the lowest density to 1"
    for name, start, stop, n, share in plot.data.iter_rows():
        inside = sum(start <= value < stop for value in densities[name].tolist())
        assert (inside, inside / (50 if name == "a" else 83)) == (n, pytest.approx(share))
    assert [text for text in texts_of(plot.figure) if text[0:3] in ("a (", "b (")] == [
        "a (50)",
        "b (83)",
    ]
    shares = PlottedComparison.of(found).plot.best_jaccard().data
    for start, stop, share in shares.iter_rows():
        assert share == pytest.approx(sum(start <= it < stop for it in best.tolist()) / 40)


def test_odd_tokens_are_drawn_as_they_are_whatever_the_user_has_set(harvest, tmp_path: Path):
    everything = len(TEXTS) + len(MARKUP)
    often = max(harvest, key=lambda it: it.firing_count)
    with mpl.rc_context({"text.usetex": True, "axes.facecolor": "red"}):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of a character that no font has
            tokens = often.plot.tokens(everything, size=(5, 9))
            contexts = harvest[KEY].plot.contexts(6)
            tokens.save(tmp_path / "tokens.svg")
            contexts.save(tmp_path / "contexts.svg")
        assert mpl.rcParams["text.usetex"] is True
    for name in ("tokens.svg", "contexts.svg"):
        elements = list(ET.parse(tmp_path / name).iter())  # noqa: S314 - our own file
        assert not [it for it in elements if it.tag.endswith(("script", "foreignObject", "image"))]
        assert not [it for it in elements if any("javascript" in v for v in it.attrib.values())]
    shown = texts_of(tokens.figure)
    for text in ("$x^2$", "$\\bad{$", "\\$", "_a_^b^", "שלום", "␣مرحبا", "⏎"):
        assert text in shown, text
    drawn = "".join(shown + texts_of(contexts.figure))
    assert "\u202e" not in drawn, "no text turns its neighbours around"
    assert "U+1F469" in drawn or "👩" in drawn
    assert max(map(len, shown)) < 100


def test_figures_are_saved_by_their_ending(harvest, tmp_path: Path):
    plot = harvest.plot.density(size=(4, 2))
    image = Image.open(plot.save(tmp_path / "a.png", dpi=50))
    assert image.size == (200, 100)
    for name, start in (("a.svg", b"<?xml"), ("a.PDF", b"%PDF")):
        first = plot.save(tmp_path / name).read_bytes()
        assert first.startswith(start)
        assert harvest.plot.density((4, 2)).save(str(tmp_path / name)).read_bytes() == first
    with pytest.raises(HarvestError, match=r"a\.jpeg"):
        plot.save(tmp_path / "a.jpeg")
    png, shown = plot._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert shown["width"] == 4 * 96


@pytest.mark.parametrize(
    ("drawn", "names"),
    [
        (lambda h: h.plot.cofiring([KEY]), "1 components"),
        (lambda h: h.plot.cofiring([KEY, "h.0.mlp.c_fc:99"]), "h.0.mlp.c_fc:99"),
        (lambda h: h.plot.cofiring(CHOSEN, by="jacard"), "jaccard"),
        (lambda h: h.plot.density(size=(5, -1)), "-1"),
        (lambda h: h[DEAD].plot.tokens(), DEAD),
        (lambda h: h[DEAD].plot.contexts(), DEAD),
        (lambda h: h[KEY].plot.contexts(shade="acts"), "acts"),
        (lambda h: h[KEY].plot.tokens(side="read"), "reads"),
        (lambda h: h[KEY].plot.tokens(-1), "k is -1"),
        (lambda h: h[KEY].plot.contexts(-1), "k is -1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(harvest, drawn, names: str):
    with pytest.raises(HarvestError, match=names):
        drawn(harvest)


def test_without_matplotlib_a_sentence_says_what_to_install(harvest, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(HarvestError, match=r"harvest_assets\[plots\]"):
        harvest.plot.density()
