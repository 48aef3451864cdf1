"""PMI lists against the oracle's loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvest_assets.results.pmi import informative_tokens, pmi, top_bottom_pmi
from harvest_assets_tests import oracle

# Few distinct values, so that ties at the k-th place are common.
COUNTS = st.lists(st.integers(0, 3), min_size=1, max_size=30)


@given(counts=COUNTS, extra=st.integers(0, 5), k=st.integers(0, 35), limit=st.integers(0, 35))
def test_lists_are_the_oracles(counts: list[int], extra: int, k: int, limit: int):
    joint = np.array(counts)
    totals = (joint + extra).astype(np.float64) + 1
    firings, positions = max(1, int(joint.sum())), int(totals.sum())
    ours = top_bottom_pmi(joint, firings, totals, positions, k, limit)
    top, bottom = oracle.token_pmi(joint, totals, firings, positions, top_k=k, vocab_limit=limit)
    assert ours.top == [(int(t), v) for t, v in top]
    assert ours.bottom == [(int(t), v) for t, v in bottom]


def test_counts_whose_product_exceeds_64_bits():
    joint = np.array([6 * 10**8, 1])
    totals = np.array([2e10, 5.0])
    lists = top_bottom_pmi(joint, 10**10, totals, 3 * 10**10, 2, 2)
    for token, value in lists.top:
        exact = oracle.pmi(int(joint[token]), 10**10, int(totals[token]), 3 * 10**10)
        assert value == pytest.approx(exact, abs=1e-7)


@given(
    joint=st.integers(1, 9),
    total=st.integers(1, 9),
    x=st.integers(1, 10**6),
    n=st.integers(1, 10**9),
)
def test_equal_ratios_have_equal_bits(joint: int, total: int, x: int, n: int):
    scale = np.arange(1, 200, dtype=np.float64)
    assert len(set(pmi(joint * scale, float(x), total * scale, float(n)).tolist())) == 1


def test_a_component_that_never_fired_has_no_lists():
    lists = top_bottom_pmi(np.zeros(3, np.int64), 0, np.ones(3), 3, 2, 3)
    assert (lists.top, lists.bottom) == ([], [])


@given(counts=COUNTS, extra=st.integers(0, 5), k=st.integers(0, 9), limit=st.integers(0, 35))
def test_informative_tokens_are_the_oracles(counts: list[int], extra: int, k: int, limit: int):
    joint = np.array(counts)
    totals = (joint + extra).astype(np.float64) + 1
    firings, positions = int(joint.sum()), int(totals.sum())
    terms = {
        t: n / firings * oracle.pmi(n, firings, int(totals[t]), positions)
        for t, n in enumerate(counts)
        if n
    }
    tokens, nats = informative_tokens(joint, firings, totals, positions, k, limit)
    assert nats == pytest.approx(sum(terms.values()), abs=1e-12)
    named = sorted((t for t in terms if terms[t] > 1e-12 and t < limit), key=lambda t: -terms[t])
    assert len(tokens) <= k
    assert [terms[t] for t in tokens if terms[t] > 1e-12] == pytest.approx(
        [terms[t] for t in named[:k]]
    )
