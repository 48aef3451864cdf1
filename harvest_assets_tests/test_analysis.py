"""Correlations and token statistics, against the oracle's loops."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harvest_assets.analysis import (
    METRICS,
    TokenPRLift,
    get_correlated_components,
    get_input_token_stats,
    get_output_token_stats,
    has_component,
)
from harvest_assets.errors import HarvestError
from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage
from harvest_assets_tests import oracle

C, V, N = 9, 12, 400


class Letters:
    vocab_size = 10

    def decode(self, ids):
        return "".join("abcdefghijkl"[i] for i in ids)


@pytest.fixture(scope="module")
def truth() -> oracle.Statistics:
    random = np.random.default_rng(1)
    density = np.array([0.9, 0.5, 0.5, 0.2, 0.2, 0.05, 0.01, 0.01, 0.0])
    ci = (random.random((N // 20, 20, C)) < density) * random.random((N // 20, 20, C))
    probs = random.dirichlet(np.ones(V) * 0.2, (N // 20, 20))
    tokens = random.integers(0, V, (N // 20, 20))
    return oracle.statistics(tokens, ci, probs, 1e-6)


@pytest.fixture(scope="module")
def correlations(truth: oracle.Statistics) -> CorrelationStorage:
    return CorrelationStorage(
        [f"a:{c}" for c in range(C)],
        torch.tensor(truth.firing_counts),
        torch.tensor(truth.count_ij),
        truth.total_tokens_processed,
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("largest", [True, False])
def test_correlated_components_are_the_oracles(truth, correlations, metric: str, largest: bool):
    for c in range(C):
        ours = get_correlated_components(correlations, f"a:{c}", metric, 4, largest)
        theirs = oracle.correlated_components(
            truth.firing_counts,
            truth.count_ij,
            truth.total_tokens_processed,
            c,
            metric,
            top_k=C,
            largest=largest,
        )
        sign = -1 if largest else 1
        # Equal ratios may differ in the last bits of a float; they are ties.
        theirs = sorted(theirs, key=lambda t: (sign * round(t.score, 10), t.component))[:4]
        assert [o.component_key for o in ours] == [f"a:{t.component}" for t in theirs]
        for mine, his in zip(ours, theirs, strict=True):
            assert mine.score == pytest.approx(his.score, rel=1e-12)
            assert (mine.count_i, mine.count_j, mine.count_ij, mine.count_total) == (
                his.count_i,
                his.count_j,
                his.count_ij,
                his.count_total,
            )


def test_counts_whose_products_exceed_64_bits():
    big, n = 6 * 10**8, 2 * 10**10
    storage = CorrelationStorage(
        ["a:0", "a:1"], torch.tensor([big, big]), torch.tensor([[big, big], [big, big]]), n
    )
    (found,) = get_correlated_components(storage, "a:0", "pmi", 5)
    assert found.score == pytest.approx(np.log(n / big), rel=1e-12)
    assert found.count_ij == big


def test_unknown_names_are_refused(correlations):
    assert has_component(correlations, "a:8")
    assert not has_component(correlations, "a:9")
    with pytest.raises(HarvestError, match="a:9"):
        get_correlated_components(correlations, "a:9", "pmi", 3)
    with pytest.raises(HarvestError, match="cosine"):
        get_correlated_components(correlations, "a:1", "cosine", 3)


def test_token_statistics_are_the_oracles(truth):
    stats = TokenStatsStorage(
        component_keys=[f"a:{c}" for c in range(C)],
        vocab_size=V,
        n_tokens=truth.total_tokens_processed,
        input_counts=torch.tensor(truth.input_token_counts),
        input_totals=torch.tensor(truth.input_token_totals).double(),
        output_counts=torch.tensor(truth.output_token_prob_mass).float(),
        output_totals=torch.tensor(truth.output_token_prob_totals),
        firing_counts=torch.tensor(truth.firing_counts).double(),
    )
    for c in range(C):
        for ask, counts, totals in (
            (get_input_token_stats, truth.input_token_counts, truth.input_token_totals),
            (get_output_token_stats, truth.output_token_prob_mass, truth.output_token_prob_totals),
        ):
            ours = ask(stats, f"a:{c}", Letters(), 3)
            if truth.firing_counts[c] == 0:
                assert ours is None
                continue
            scores = oracle.token_scores(
                counts[c], totals, truth.firing_counts[c], truth.total_tokens_processed
            )
            scores = {t: s for t, s in scores.items() if t < Letters.vocab_size}
            for name in ("recall", "precision", "lift", "pmi"):
                best = sorted(scores, key=lambda t, n=name: (-getattr(scores[t], n), t))[:3]
                found = getattr(ours, f"top_{name}")
                assert [v for _, v in found] == pytest.approx(
                    [getattr(scores[t], name) for t in best], rel=1e-5
                )
                assert {letter for letter, _ in found} <= set("abcdefghij")
            if ask is get_input_token_stats:
                assert ours.bottom_pmi is None
            else:
                worst = sorted(s.pmi for s in scores.values())[:3]
                assert [v for _, v in ours.bottom_pmi] == pytest.approx(worst, rel=1e-5, abs=1e-6)


def exact_score(metric: str, n_ij: int, n_i: int, n_j: int) -> Fraction:
    """What the metric ranks by, without rounding; PMI rises with the ratio in its logarithm."""
    return {
        "precision": Fraction(n_ij, n_i),
        "recall": Fraction(n_ij, n_j),
        "jaccard": Fraction(n_ij, n_i + n_j - n_ij),
        "pmi": Fraction(n_ij, n_i * n_j),
    }[metric]


@given(
    firings=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    together=st.lists(st.integers(0, 6), min_size=8, max_size=8),
    scale=st.sampled_from([1, 7, 1000, 10**8]),
    more=st.sampled_from([0, 1, 10**6, 2 * 10**10]),
    metric=st.sampled_from(METRICS),
    largest=st.booleans(),
)
def test_ranking_is_that_of_exact_fractions(firings, together, scale, more, metric, largest):
    """Ties go to the lower index, and only ties do, at any scale."""
    n = len(firings)
    count_i = [f * scale for f in firings]
    count_ij = np.diag(count_i)
    for j in range(1, n):
        count_ij[0, j] = count_ij[j, 0] = min(together[j], firings[0], firings[j]) * scale
    storage = CorrelationStorage(
        [f"a:{j}" for j in range(n)],
        torch.tensor(count_i),
        torch.tensor(count_ij),
        6 * scale + more,
    )
    scores = {
        j: exact_score(metric, int(count_ij[0, j]), count_i[0], count_i[j])
        for j in range(1, n)
        if count_ij[0, j]
    }
    wanted = sorted(scores, key=lambda j: (-scores[j] if largest else scores[j], j))
    found = get_correlated_components(storage, "a:0", metric, n, largest)
    assert [f.component_key for f in found] == [f"a:{j}" for j in wanted]


def test_small_ratios_are_distinguished():
    count_i = [3, 600_000_000, 599_999_000, 599_998_000]
    count_ij = np.diag(count_i)
    count_ij[0, 1:] = count_ij[1:, 0] = 1
    storage = CorrelationStorage(
        [f"a:{j}" for j in range(4)], torch.tensor(count_i), torch.tensor(count_ij), 2 * 10**10
    )
    found = get_correlated_components(storage, "a:0", "recall", 3)
    assert [f.component_key for f in found] == ["a:3", "a:2", "a:1"]


@pytest.mark.parametrize("counts", [[[4]], [[0]]])
def test_one_component_and_one_token(counts):
    fired = counts[0][0]
    correlations = CorrelationStorage(["a:0"], torch.tensor([fired]), torch.tensor(counts), 8)
    assert get_correlated_components(correlations, "a:0", "pmi", 3) == []
    stats = TokenStatsStorage(
        component_keys=["a:0"],
        vocab_size=1,
        n_tokens=8,
        input_counts=torch.tensor(counts),
        input_totals=torch.tensor([8.0], dtype=torch.float64),
        output_counts=torch.tensor(counts).float(),
        output_totals=torch.tensor([8.0], dtype=torch.float64),
        firing_counts=torch.tensor([fired], dtype=torch.float64),
    )
    found = get_output_token_stats(stats, "a:0", Letters(), 3)
    if fired:
        assert found == TokenPRLift(
            top_recall=[("a", 1.0)],
            top_precision=[("a", 0.5)],
            top_lift=[("a", 1.0)],
            top_pmi=[("a", 0.0)],
            bottom_pmi=[("a", 0.0)],
        )
    else:
        assert found is None
