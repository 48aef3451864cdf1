"""Which harvests are doubtful, and how severely that is said."""

from __future__ import annotations

import dagster as dg
import numpy as np
import pytest

from harvest_assets.orchestration.quality_checks import (
    judge_alive,
    judge_firings,
    judge_occurrences,
    judge_probabilities,
)

WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


@pytest.mark.parametrize(("dead", "passed"), [(0, True), (50, True), (51, False), (100, False)])
def test_dead_components(dead: int, passed: bool):
    firings = np.array([0] * dead + [5] * (100 - dead))
    keys = [f"h.{i % 2}:{i // 2}" for i in range(100)]
    result = judge_alive(keys, firings)
    assert (result.passed, result.severity) == (passed, WARN)
    assert result.metadata["dead share"].value == dead / 100
    assert "h.0" in {record.data["layer"] for record in result.metadata["layers"].records}


@pytest.mark.parametrize(("few", "passed"), [(0, True), (20, True), (21, False)])
def test_components_with_few_firings(few: int, passed: bool):
    firings = np.array([99] * few + [100] * (100 - few) + [0] * 500)
    result = judge_firings(firings)
    assert (result.passed, result.severity) == (passed, WARN)
    assert ("more batches" in result.description) != passed


@pytest.mark.parametrize(("rare", "passed"), [(0, True), (50, True), (51, False)])
def test_tokens_with_few_occurrences(rare: int, passed: bool):
    totals = np.array([9.0] * rare + [10.0] * (100 - rare) + [0.0] * 500)
    result = judge_occurrences(totals)
    assert (result.passed, result.severity) == (passed, WARN)
    assert result.metadata["rare tokens"].value == rare


@pytest.mark.parametrize(
    ("mean", "passed", "severity"),
    [(1.0, True, WARN), (1.00009, True, WARN), (0.999, False, WARN), (1.2, False, ERROR)],
)
def test_probabilities(mean: float, passed: bool, severity: dg.AssetCheckSeverity):
    result = judge_probabilities(mean * 12345, 12345)
    assert (result.passed, result.severity) == (passed, severity)


def test_nothing_harvested_is_nothing_wrong():
    assert judge_probabilities(0.0, 0).passed
    assert judge_firings(np.zeros(3, np.int64)).passed
    assert judge_occurrences(np.zeros(3)).passed
