"""The oracle itself, against numbers worked out by hand and against the original's real files."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from harvest_assets_tests import oracle

THRESHOLD = 1e-6


@pytest.fixture(scope="module")
def reference():
    folder = os.environ.get("HARVEST_REFERENCE_RUNS")
    if not folder:
        pytest.skip("HARVEST_REFERENCE_RUNS is not set: no real runs to compare with")
    return Path(folder)


@pytest.fixture(scope="module")
def first_batches(reference):
    path = reference / "activations" / "s-0ddd38e5.first2.pt"
    batches = torch.load(path, weights_only=True)
    names = ("batch", "ci", "probs", "subcomp_acts")
    return tuple(np.concatenate([batch[name].numpy() for batch in batches]) for name in names)


@pytest.fixture(scope="module")
def written(reference):
    """The original's two dictionaries and its components by key."""
    folder = reference / "expected" / "s-0ddd38e5"
    correlations = torch.load(
        folder / "correlations" / "component_correlations.pt", weights_only=True
    )
    token_stats = torch.load(folder / "correlations" / "token_stats.pt", weights_only=True)
    lines = (folder / "activation_contexts" / "components.jsonl").read_text().splitlines()
    components = {line["component_key"]: line for line in map(json.loads, lines)}
    return correlations, token_stats, components


def test_two_rows_by_hand():
    tokens = np.array([[0, 1], [1, 1]])
    ci = np.array([[[0.5, 0.0], [0.2, 0.9]], [[1.25, 0.2], [0.0, -0.5]]])
    probs = np.array([[[0.75, 0.25], [0.5, 0.5]], [[0.25, 0.75], [1.0, 0.0]]])

    found = oracle.statistics(tokens, ci, probs, 0.2)

    assert found.firing_counts.tolist() == [2, 1]
    assert found.count_ij.tolist() == [[2, 0], [0, 1]]
    assert found.input_token_counts.tolist() == [[1, 1], [0, 1]]
    assert found.input_token_totals.tolist() == [1, 3]
    assert found.ci_sums.tolist() == pytest.approx([1.95, 0.6])
    assert found.output_token_prob_mass.tolist() == [[1.0, 1.0], [0.5, 0.5]]
    assert found.output_token_prob_totals.tolist() == [2.5, 1.5]
    assert found.total_tokens_processed == 4
    assert oracle.firings(ci, 0, 0.2) == [(0, 0), (1, 0)]


def test_a_window_beyond_both_ends_of_its_row():
    tokens = np.array([[3, 4], [5, 6]])
    ci = np.array([[[0.0], [0.0]], [[0.5], [0.25]]])
    found = oracle.window(tokens, ci, -ci, (1, 1), 0, tokens_per_side=2)
    assert found.token_ids == [-1, 5, 6, -1, -1]
    assert found.ci_values == [0.0, 0.5, 0.25, 0.0, 0.0]
    assert found.component_acts == [0.0, -0.5, -0.25, 0.0, 0.0]


def test_scores_by_hand():
    assert oracle.correlation("precision", 2, 4, 8, 100) == 0.5
    assert oracle.correlation("recall", 2, 4, 8, 100) == 0.25
    assert oracle.correlation("jaccard", 2, 4, 8, 100) == 0.2
    assert oracle.correlation("pmi", 2, 4, 8, 100) == pytest.approx(math.log(200 / 32))
    scores = oracle.token_scores([0, 3], [5, 6], 10, 100)
    assert list(scores) == [1]
    assert (scores[1].recall, scores[1].precision, scores[1].lift) == pytest.approx((0.3, 0.5, 5.0))
    assert scores[1].pmi == pytest.approx(math.log(300 / 60))
    assert oracle.mean_ci(1.23456789, 1) == 1.234568
    assert oracle.mean_ci(1e-12, 3) == 3.333333e-13


def test_pmi_lists_break_ties_by_token_and_stay_below_the_limit():
    counts, totals = [1, 0, 2, 1, 1], [2, 5, 4, 1, 1]
    top, bottom = oracle.token_pmi(counts, totals, 4, 16, top_k=2, vocab_limit=4)
    assert top == [(3, round(math.log(4), 7)), (0, round(math.log(2), 7))]
    assert bottom == [(0, round(math.log(2), 7)), (2, round(math.log(2), 7))]


def test_correlated_components_are_never_itself_and_never_without_co_occurrence():
    count_ij = np.array([[9, 3, 0, 3], [3, 3, 0, 0], [0, 0, 5, 0], [3, 0, 0, 6]])
    found = oracle.correlated_components(np.diag(count_ij), count_ij, 20, 0, "precision", top_k=5)
    assert [entry.component for entry in found] == [1, 3]
    found = oracle.correlated_components(
        np.diag(count_ij), count_ij, 20, 0, "recall", top_k=1, largest=False
    )
    assert [(entry.component, entry.score) for entry in found] == [(3, 0.5)]


def test_pmi_lists_agree_with_the_original(written):
    _, token_stats, components = written
    n_tokens = token_stats["n_tokens"]
    compared = 0
    for index, key in enumerate(token_stats["component_keys"]):
        if key not in components:
            continue
        n_firings = token_stats["firing_counts"][index].item()
        for kind, lists in (("input", ("top",)), ("output", ("top", "bottom"))):
            top, bottom = oracle.token_pmi(
                token_stats[f"{kind}_counts"][index].tolist(),
                token_stats[f"{kind}_totals"].tolist(),
                n_firings,
                n_tokens,
                top_k=40,
                vocab_limit=token_stats["vocab_size"],
            )
            for name, ours in (("top", top), ("bottom", bottom)):
                if name in lists:
                    theirs = [value for _, value in components[key][f"{kind}_token_pmi"][name]]
                    assert [value for _, value in ours] == pytest.approx(theirs, abs=1e-3)
                    compared += len(theirs)
    assert compared > 1000


def test_two_real_batches_are_within_the_original_totals(first_batches, written, reference):
    tokens, ci, probs, _ = first_batches
    correlations, token_stats, _ = written
    found = oracle.statistics(tokens, ci, probs, THRESHOLD)
    assert (found.count_ij <= correlations["count_ij"].numpy()).all()
    assert (found.input_token_counts <= token_stats["input_counts"].numpy()).all()
    assert (found.firing_counts == np.diag(found.count_ij)).all()
    assert found.input_token_counts.sum(1).tolist() == found.firing_counts.tolist()
    assert found.output_token_prob_mass.sum(1) == pytest.approx(found.firing_counts, rel=1e-5)
    # All 40 batches have tokens but only two have activations: the input totals can be had whole.
    batches = torch.load(reference / "activations" / "s-0ddd38e5.batches.pt", weights_only=True)
    all_tokens = batches.reshape(-1, 64).numpy()
    everything = oracle.statistics(
        all_tokens, np.zeros((*all_tokens.shape, 0)), np.zeros((*all_tokens.shape, 768)), THRESHOLD
    )
    assert everything.input_token_totals.tolist() == token_stats["input_totals"].tolist()
    assert everything.total_tokens_processed == correlations["count_total"]


def test_windows_agree_with_the_examples_of_the_original(first_batches, written):
    tokens, ci, _, acts = first_batches
    correlations, _, components = written
    compared = 0
    for index, key in enumerate(correlations["component_keys"]):
        windows = {}
        for firing in oracle.firings(ci, index, THRESHOLD):
            found = oracle.window(tokens, ci, acts, firing, index, tokens_per_side=10)
            windows[tuple(found.token_ids)] = found
        for example in components.get(key, {"activation_examples": []})["activation_examples"]:
            ours = windows.get(tuple(example["token_ids"]))
            # The original keeps no row: a window cut by an edge may be from a later row.
            if ours is not None and -1 not in ours.token_ids:
                assert ours.ci_values == pytest.approx(example["ci_values"], abs=1e-3)
                assert ours.component_acts == pytest.approx(example["component_acts"], abs=1e-3)
                compared += 1
    assert compared > 100
