"""Pairs of components of two harvests: equal to loops over formulas of both models."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from harvest_assets.comparison import compare
from harvest_assets.comparison.firings import Firings, cross_counts
from harvest_assets.comparison.pairs import best_pairs
from harvest_assets_tests.comparison.by_formula import LAYERS, best, counts
from harvest_assets_tests.comparison.conftest import N_KEPT, N_ROWS, Two
from harvest_assets_tests.decompositions.dictionaries.tiny_set import KEYS

SPD_KEYS = [f"{layer}:{c}" for layer, size in LAYERS.items() for c in range(size)]


def listed(fires: np.ndarray) -> Firings:
    """Bool [P, C] as lists."""
    components = np.nonzero(fires)[1].astype(np.int32)
    return Firings.joined(fires.shape[1], [fires.sum(1)], [components])


def check(pairs: pl.DataFrame, a: np.ndarray, b: np.ndarray, keys, other_keys, top: int) -> None:
    n_a, n_b, n_ab = counts(a, b)
    expected, back = best(n_a, n_b, n_ab, top), best(n_b, n_a, np.transpose(n_ab).tolist(), 1)
    rows = {(row["component_a"], row["rank"]): row for row in pairs.to_dicts()}
    assert len(rows) == len(pairs) == sum(max(1, len(it)) for it in expected.values())
    for i, matches in expected.items():
        if not matches:
            row = rows[keys[i], 1]
            assert (row["component_b"], row["n_a"], row["n_ab"]) == (None, n_a[i], 0)
            assert (row["n_b"], row["jaccard"], row["mutual"]) == (None, 0.0, False)
        for rank, (j, score) in enumerate(matches, 1):
            row = rows[keys[i], rank]
            assert row["component_b"] == other_keys[j]
            assert (row["n_a"], row["n_b"], row["n_ab"]) == (n_a[i], n_b[j], n_ab[i][j])
            assert row["jaccard"] == float(score)
            assert row["precision"] == n_ab[i][j] / n_a[i]
            assert row["recall"] == n_ab[i][j] / n_b[j]
            assert row["mutual"] == (rank == 1 and back[j][0][0] == i)


@pytest.mark.parametrize(
    ("rows", "n", "source"),
    [
        (None, N_KEPT, "kept firings"),
        (7, 7, "kept firings"),
        (30, 30, "joint pass"),
        (10_000, N_ROWS, "joint pass"),
    ],
)
def test_pairs_of_two_kinds_equal_loops(two: Two, rows: int | None, n: int, source: str):
    found = compare(*two.names, rows=rows, top=4)
    assert (found.pairs_of.n_rows, found.pairs_of.source) == (n, source)
    assert found.pairs_of.n_tokens == n * two.spd_fires.shape[1]
    check(found.pairs, two.spd_fires[:n], two.saes_fire[:n], SPD_KEYS, KEYS, 4)
    assert found.pairs["mutual"].any()


def test_ties_blocks_and_components_without_a_match(monkeypatch: pytest.MonkeyPatch):
    generator = np.random.default_rng(0)
    a, b = generator.random((40, 13)) < 0.15, generator.random((40, 7)) < 0.2
    a[:, 3], a[:, 4] = a[:, 5], False  # two alike, and one that never fires
    b[:, 2], b[a[:, 6]] = b[:, 1], False  # 6 of A fires with none
    a[0, 6], b[0] = True, False
    names, others = [f"a:{c}" for c in range(13)], [f"b:{c}" for c in range(7)]
    whole = best_pairs(listed(a), listed(b), names, others, 3)
    check(whole, a[None], b[None], names, others, 3)
    assert whole.filter(pl.col("component_b").is_null())["component_a"].to_list() == ["a:6"]
    monkeypatch.setattr("harvest_assets.comparison.pairs._BLOCK_BYTES", 8 * 7 * 2)
    assert best_pairs(listed(a), listed(b), names, others, 3).equals(whole)
    silent = np.zeros_like(b)
    assert best_pairs(listed(a), listed(silent), names, others, 3)["component_b"].null_count() == 12
    assert best_pairs(listed(silent), listed(a), others, names, 3).is_empty()


def test_counts_of_groups_of_rows_add_up():
    generator = np.random.default_rng(1)
    a, b = generator.random((50, 9)) < 0.3, generator.random((50, 6)) < 0.3

    def counted(rows: slice) -> np.ndarray:
        ends, position = listed(a[rows]).transposed()
        return cross_counts(ends, position, listed(b[rows]), range(9))

    assert counted(slice(0, 17)).dtype == np.int64
    np.testing.assert_array_equal(
        counted(slice(0, 17)) + counted(slice(17, 50)), a.astype(int).T @ b.astype(int)
    )
