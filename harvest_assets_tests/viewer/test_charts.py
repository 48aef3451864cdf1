"""The charts of the pages."""

from __future__ import annotations

import re

import numpy as np

from harvest_assets.schemas import ci_bin_edges
from harvest_assets.viewer import charts


def test_values_above_one_have_a_place_in_the_chart():
    svg = charts.ci_against_density(np.array([0.5, 0.1]), np.array([20.0, 0.01]))
    assert "10²" in svg
    assert "mean CI 2e+01" in svg or "mean CI 3e+01" in svg


def test_the_bins_of_a_chart_are_the_harvesters():
    counts = np.arange(64)
    svg = charts.ci_histogram(counts)
    for b, firings in ((1, "1 firing"), (30, "30 firings"), (62, "62 firings")):
        assert f"CI {ci_bin_edges()[b - 1]:.2g} to {ci_bin_edges()[b]:.2g}: {firings} (" in svg


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
