"""A sum read block by block is what was counted in all rows; no states add up to zero."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from harvest_assets.errors import HarvestError
from harvest_assets.harvester.state_sum import StateSum, blocks
from harvest_assets_tests import oracle
from harvest_assets_tests.harvester.rows import Setup, assert_same, harvest, random_rows

SETUP = Setup((("h.0.attn", 5), ("h.0.mlp", 4)), 7, ci_threshold=0.5, k=6, side=2, seed=11)
N = SETUP.n_components


@pytest.mark.parametrize("n_states", [1, 2, 6])
def test_blocks_are_the_oracles(n_states: int):
    rows = random_rows(np.random.default_rng(3), SETUP, 12, 9, 0.4)
    each = 12 // n_states
    parts = [(rows.part(i * each, (i + 1) * each), i * each) for i in range(n_states)]
    total = StateSum(harvest(SETUP, part, first) for part, first in parts)
    truth = oracle.statistics(rows.tokens, rows.ci, rows.probs, SETUP.ci_threshold)

    assert total.n_states == n_states
    assert total.total_tokens_processed == 12 * 9
    assert total.firing_counts.tolist() == truth.firing_counts.tolist()
    assert total.ci_histogram.sum(dim=1).tolist() == truth.firing_counts.tolist()
    assert total.n_examples == np.minimum(truth.firing_counts, SETUP.k).sum()
    assert total.input_token_totals.tolist() == truth.input_token_totals.tolist()
    np.testing.assert_allclose(total.ci_sums, truth.ci_sums, rtol=1e-12)
    np.testing.assert_allclose(
        total.output_token_prob_totals, truth.output_token_prob_totals, rtol=1e-12
    )
    upper = np.triu(truth.count_ij)
    for block in blocks(N, 4):
        assert total.input_counts(block).tolist() == truth.input_token_counts[block].tolist()
        counts = torch.zeros(upper[block].shape, dtype=torch.int64)
        total.add_upper_cooccurrence(counts, block.start)
        assert counts.tolist() == upper[block].tolist()
        np.testing.assert_allclose(
            total.output_mass(block), truth.output_token_prob_mass[block], rtol=1e-12
        )
    for component in range(N):
        assert total.cooccurrence_of(component).tolist() == truth.count_ij[component].tolist()
    assert_same(total.state(), harvest(SETUP, rows), N)


def test_examples_of_a_block_are_those_of_all_rows():
    rows = random_rows(np.random.default_rng(4), SETUP, 10, 9, 0.6)
    total = StateSum([harvest(SETUP, rows.part(6, 10), 6), harvest(SETUP, rows.part(0, 6))])
    whole = harvest(SETUP, rows)
    for block in blocks(N, 2):
        for table, read in (
            (whole.sample, total.sample),
            (whole.highest_ci, total.highest_ci),
            (whole.highest_activation, total.highest_activation),
        ):
            found = read(block).located()
            assert found == table.of_components(block.start, block.stop).located()
            for example in found:
                side = SETUP.side
                assert example.token_ids[side] == rows.tokens[example.row, example.position]


def test_no_states_add_up_to_zero():
    settings = SETUP.harvester().settings
    total = StateSum([], settings)
    assert (total.n_states, total.total_tokens_processed, total.n_examples) == (0, 0, 0)
    block = slice(2, 4)
    assert total.input_counts(block).shape == total.output_mass(block).shape == (2, 7)
    rows = torch.zeros(2, N, dtype=torch.int64)
    total.add_upper_cooccurrence(rows, 0)
    assert not rows.any()
    counts = (
        total.firing_counts,
        total.ci_sums,
        total.cooccurrence_of(3),
        total.output_mass(block),
    )
    assert not any(values.any() for values in counts)
    for read in (total.sample, total.highest_ci, total.highest_activation):
        assert read(block).located() == []
    assert_same(total.state(), SETUP.harvester().state(), N)


def test_other_settings_than_the_given_are_named():
    state = SETUP.harvester().state()
    other = dataclasses.replace(SETUP, seed=12).harvester().settings
    with pytest.raises(HarvestError, match="seed"):
        StateSum([state], other)
    with pytest.raises(HarvestError, match="at least one"):
        StateSum([])


def test_large_statistics_are_written_where_they_are_allocated():
    rows = random_rows(np.random.default_rng(5), SETUP, 8, 9, 0.5)
    rows.ci[..., [0, 3, 4, 8]] = 0  # never fire
    allocated, reserved = {}, {}

    def allocate(name, shape, dtype, filled):
        allocated[name] = torch.zeros(shape, dtype=dtype)
        reserved[name] = torch.zeros(shape[0], dtype=torch.bool)
        for part in filled:
            reserved[name][part] = True
        return allocated[name]

    states = [harvest(SETUP, rows.part(0, 3)), harvest(SETUP, rows.part(3, 8), 3)]
    state = StateSum(states).state(allocate)
    for name in ("cooccurrence", "input_counts", "output_token_prob_mass"):
        assert getattr(state, name) is allocated[name]
        assert not allocated[name][~reserved[name]].any()
    assert reserved["input_counts"].nonzero().squeeze(1).tolist() == [1, 2, 5, 6, 7]
    for table in ("sample", "highest_ci", "highest_activation"):
        for column, values in getattr(state, table)._asdict().items():
            assert values is allocated[f"{table}.{column}"]
    assert_same(state, harvest(SETUP, rows), N)
