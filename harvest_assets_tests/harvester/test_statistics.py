"""One harvester against the oracle."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harvest_assets.harvester import HarvesterState
from harvest_assets.schemas import ci_bin_edges
from harvest_assets_tests import oracle
from harvest_assets_tests.harvester.rows import (
    DEVICES,
    Rows,
    Setup,
    all_examples,
    assert_genuine_examples,
    assert_identical,
    assert_is,
    assert_shapes_and_types,
    feed,
    harvest,
    named_firing,
    random_rows,
)

exactly = settings(deadline=None, derandomize=True, max_examples=250)


@st.composite
def setups(draw):
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    return Setup(
        layers=tuple((f"h.{i}.mlp.c_fc", size) for i, size in enumerate(sizes)),
        vocab_size=draw(st.integers(1, 11)),
        ci_threshold=draw(st.sampled_from([0.0, 1e-6, 0.5, 1.0])),
        k=draw(st.sampled_from([1, 2, 5, 1000])),
        side=draw(st.sampled_from([0, 1, 3, 12])),
        seed=draw(st.integers(0, 2**63 - 1)),
    )


@st.composite
def harvests(draw):
    setup = draw(setups())
    # Activations name their position in sixteenths, one for each component.
    while setup.n_components > 16:
        setup = Setup(**{**vars(setup), "layers": setup.layers[:-1]})
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    rows = random_rows(rng, setup, draw(st.integers(1, 6)), draw(st.integers(1, 9)), density)
    return setup, rows


@pytest.mark.parametrize("device", DEVICES)
@exactly
@given(given_harvest=harvests(), first_row=st.sampled_from([0, 7, 10**9]))
def test_a_harvester_agrees_with_the_oracle(device, given_harvest, first_row):
    setup, rows = given_harvest
    state = harvest(setup, rows, first_row, device)
    assert_shapes_and_types(state, setup)
    expected = oracle.statistics(rows.tokens, rows.ci, rows.probs, setup.ci_threshold)
    assert_is(state, expected, rows.ci)
    assert_genuine_examples(state, setup, rows)


@pytest.mark.parametrize("device", DEVICES)
def test_many_batches_with_more_components_than_fit_a_chunk(device):
    setup = Setup((("a", 13), ("b", 3)), 301, ci_threshold=1e-6, k=40, side=10, seed=3)
    rows = random_rows(np.random.default_rng(0), setup, 60, 33)
    harvester = setup.harvester(device)
    for start in range(0, 60, 7):
        feed(harvester, rows, start, min(start + 7, 60), device=device)
    expected = oracle.statistics(rows.tokens, rows.ci, rows.probs, setup.ci_threshold)
    state = harvester.state()
    assert_is(state, expected, rows.ci)
    assert_genuine_examples(state, setup, rows)


@pytest.mark.parametrize("density", [0.02, 0.6])
def test_more_components_and_tokens_than_fit_a_block(density, tmp_path):
    setup = Setup((("a", 1500), ("b", 637)), 1201, ci_threshold=0.5, k=2, side=1)
    rng = np.random.default_rng(8)
    fires = rng.random((2, 9, 2137)) < density
    ci = fires.astype(np.float32)
    rows = Rows(
        rng.integers(0, 1201, (2, 9)), ci, rng.random((2, 9, 1201)).astype(np.float32), ci * 2
    )
    state = harvest(setup, rows)
    fired = fires.reshape(18, -1).astype(np.float64)
    one_hot = np.eye(1201)[rows.tokens.ravel()]
    probs = rows.probs.reshape(18, -1).astype(np.float64)
    expected = oracle.Statistics(
        firing_counts=fired.sum(0),
        count_ij=fired.T @ fired,
        input_token_counts=fired.T @ one_hot,
        input_token_totals=one_hot.sum(0),
        ci_sums=fired.sum(0),
        output_token_prob_mass=fired.T @ probs,
        output_token_prob_totals=probs.sum(0),
        total_tokens_processed=18,
    )
    assert_is(state, expected, ci)
    state.save(tmp_path / "state")
    assert_is(HarvesterState.load(tmp_path / "state"), expected, ci)
    assert_is(HarvesterState.merge([state, setup.harvester().state()]), expected, ci)


def test_a_state_of_nothing():
    setup = Setup((("a", 2), ("b", 3)), 4)
    state = setup.harvester().state()
    assert_shapes_and_types(state, setup)
    nothing = np.zeros((0, 3, 5), np.float32)
    expected = oracle.statistics(nothing[..., 0], nothing, nothing[..., :4], 0.5)
    assert_is(state, expected, nothing)
    assert all_examples(state, 5) == [[]] * 5


def test_a_batch_without_rows_and_rows_without_tokens():
    setup = Setup((("a", 4),), 5, k=3)
    rows = random_rows(np.random.default_rng(9), setup, 4, 6)
    harvester = setup.harvester()
    feed(harvester, rows, 0, 2)
    feed(harvester, rows, 2, 2)
    tokens, *others = rows.tensors()
    harvester.process_batch(tokens[:, :0], *(other[:, :0] for other in others), 100)
    feed(harvester, rows, 2, 4)
    assert_identical(harvester.state(), harvest_in_two(setup, rows), 4)


def harvest_in_two(setup, rows):
    harvester = setup.harvester()
    feed(harvester, rows, 0, 2)
    feed(harvester, rows, 2, 4)
    return harvester.state()


def test_a_state_does_not_change_when_the_harvester_goes_on():
    setup = Setup((("a", 4),), 5, k=3)
    rows = random_rows(np.random.default_rng(1), setup, 8, 6)
    harvester = setup.harvester()
    feed(harvester, rows, 0, 4)
    early = harvester.state()
    feed(harvester, rows, 4, 8)
    half = rows.part(0, 4)
    assert_is(early, oracle.statistics(half.tokens, half.ci, half.probs, 0.5), half.ci)
    assert_genuine_examples(early, setup, half)
    whole = oracle.statistics(rows.tokens, rows.ci, rows.probs, 0.5)
    assert_is(harvester.state(), whole, rows.ci)
    assert_is(harvester.build_results(), whole, rows.ci)


def test_the_inputs_are_left_as_they_were():
    setup = Setup((("a", 4),), 5)
    rows = random_rows(np.random.default_rng(2), setup, 3, 6)
    tensors = rows.tensors()
    before = [tensor.clone() for tensor in tensors]
    harvester = setup.harvester()
    harvester.process_batch(*tensors, 0)
    for tensor, copy in zip(tensors, before, strict=True):
        assert torch.equal(tensor, copy)
    # Nor does the harvester hold on to a buffer that the caller fills again.
    for tensor in tensors:
        tensor.zero_()
    assert_genuine_examples(harvester.state(), setup, rows)


def test_tensors_of_any_width_stride_and_gradient():
    setup = Setup((("a", 4),), 5)
    rows = random_rows(np.random.default_rng(3), setup, 4, 6)
    # Few digits, so that each of the types holds the same numbers.
    ci, probs, acts = (np.round(array * 8) / 8 for array in (rows.ci, rows.probs, rows.acts))
    rows = Rows(rows.tokens, ci, probs, acts)
    tokens, ci, probs, acts = rows.tensors()
    expected = oracle.statistics(rows.tokens, rows.ci, rows.probs, 0.5)
    variants = {
        "int32": (tokens.int(), ci, probs, acts),
        "float64": (tokens, ci.double(), probs.double(), acts.double()),
        "bfloat16": (tokens, ci.bfloat16(), probs.bfloat16(), acts.bfloat16()),
        "strided": tuple(t.mT.contiguous().mT for t in (tokens, ci, probs, acts)),
        "gradient": (tokens, *(t.clone().requires_grad_() for t in (ci, probs, acts))),
    }
    for name, tensors in variants.items():
        harvester = setup.harvester()
        harvester.process_batch(*tensors, 0)
        state = harvester.state()
        assert_is(state, expected, rows.ci)
        assert not state.ci_sums.requires_grad, name


def test_fewer_examples_are_the_first_of_more():
    rows = None
    longest = None
    for k in (1000, 20, 3, 1):
        setup = Setup((("a", 6),), 5, k=k, seed=9)
        rows = rows or random_rows(np.random.default_rng(4), setup, 20, 9, density=0.6)
        examples = all_examples(harvest(setup, rows), 6)
        longest = longest or examples
        assert examples == [whole[:k] for whole in longest]


def test_the_seed_decides_the_examples_and_nothing_else():
    setups_by_seed = [Setup((("a", 6),), 5, k=10, seed=seed) for seed in (0, 0, 1, 2**40)]
    rows = random_rows(np.random.default_rng(5), setups_by_seed[0], 20, 9, density=0.6)
    states = [harvest(setup, rows) for setup in setups_by_seed]
    expected = oracle.statistics(rows.tokens, rows.ci, rows.probs, 0.5)
    for state in states:
        assert_is(state, expected, rows.ci)
    examples = [all_examples(state, 6) for state in states]
    assert examples[0] == examples[1]
    for component in range(6):
        picks = {
            frozenset(named_firing(example, 9) for example in by_seed[component])
            for by_seed in examples
        }
        assert len(picks) == 3


def test_the_20_firings_of_highest_ci():
    setup = Setup((("a", 5),), 3, k=2)
    rng = np.random.default_rng(6)
    rows = random_rows(rng, setup, 12, 9)
    ci = rng.permutation(np.linspace(0.1, 1.1, rows.ci.size, dtype=np.float32)).reshape(
        rows.ci.shape
    )
    rows = Rows(rows.tokens, ci, rows.probs, rows.acts)
    state = harvest(setup, rows)
    for component in range(5):
        firings = oracle.firings(ci, component, 0.5)
        falling = np.argsort([-ci[(*firing, component)] for firing in firings])
        highest = [firings[i] for i in falling[:20]]
        found = [named_firing(e, 9)[:2] for e in state.highest_ci_examples(component)]
        assert found == highest


def test_the_histogram_of_ci():
    """Of firings only; 64 bins, 1.0 and what overshoots in the last."""
    setup = Setup((("a", 3),), 3, ci_threshold=1e-3)
    edges = ci_bin_edges().astype(np.float32)
    values = np.concatenate(
        [edges, np.nextafter(edges, np.float32(0)), np.float32([0, 1.01, 2e-7])]
    )
    ci = np.stack([values, np.full_like(values, 1.0), np.full_like(values, 0.999)], -1)[None]
    length = len(values)
    rows = Rows(np.zeros((1, length), np.int64), ci, np.ones((1, length, 3), np.float32), ci)
    found = harvest(setup, rows).ci_histogram
    assert (tuple(found.shape), found.dtype) == ((3, 64), torch.int64)
    bins = [(edges <= value).sum() for value in values if value > 1e-3]
    assert found[0].tolist() == np.bincount(bins, minlength=64).tolist()
    assert (found[1].tolist(), found[2].tolist()) == ([0] * 63 + [length], [0] * 62 + [length, 0])


def test_examples_know_their_row_and_position():
    setup = Setup((("a", 6),), 5, k=4)
    rows = random_rows(np.random.default_rng(7), setup, 10, 9)
    first_row = 2**33
    sample = harvest(setup, rows, first_row).sample
    for component, row, position, acts in zip(
        sample.component.tolist(),
        sample.row.tolist(),
        sample.position.tolist(),
        sample.component_acts,
        strict=True,
    ):
        assert acts[2] == rows.acts[row - first_row, position, component]


def test_real_activations():
    folder = os.environ.get("HARVEST_REFERENCE_RUNS")
    if not folder:
        pytest.skip("HARVEST_REFERENCE_RUNS is not set: no real activations to compare with")
    path = Path(folder) / "activations" / "s-0ddd38e5.first2.pt"
    batches = torch.load(path, weights_only=True)
    setup = Setup((("real", 320),), 768, ci_threshold=1e-6, k=50, side=10)
    harvester = setup.harvester()
    names = ("batch", "ci", "probs", "subcomp_acts")
    for index, batch in enumerate(batches):
        harvester.process_batch(*(batch[name] for name in names), 16 * index)
    rows = Rows(*(torch.cat([batch[name] for batch in batches]).numpy() for name in names))
    state = harvester.state()
    expected = oracle.statistics(rows.tokens, rows.ci, rows.probs, 1e-6)
    assert_is(state, expected, rows.ci)
    for component in range(320):
        windows = {
            tuple(window.component_acts + window.ci_values)
            for firing in oracle.firings(rows.ci, component, 1e-6)
            for window in [
                oracle.window(
                    rows.tokens, rows.ci, rows.acts, firing, component, tokens_per_side=10
                )
            ]
        }
        examples = state.examples(component)
        assert len(examples) == min(50, expected.firing_counts[component])
        assert {tuple(e.component_acts + e.ci_values) for e in examples} <= windows
