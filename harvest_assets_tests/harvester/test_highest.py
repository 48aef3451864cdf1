"""The examples of highest CI and of largest activation, where most firings are equal in both."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from harvest_assets.errors import HarvestError
from harvest_assets.harvester import Harvester, HarvesterState
from harvest_assets.harvester.state_sum import StateSum
from harvest_assets_tests import oracle
from harvest_assets_tests.harvester.rows import DEVICES, Rows, Setup, assert_same, feed, harvest

SETUP = Setup((("h.0.attn", 2), ("h.0.mlp", 2)), 7, k=10_000, side=1, seed=5)
N, LENGTH = SETUP.n_components, 9
BEFORE = Path(__file__).parents[1] / "files/written_by_0_1/harvest/x-aaaaaaaa/shards/00"


def tied_rows(seed: int, n_rows: int) -> Rows:
    """Few values of CI and activation, of either sign; nearly all firings of 0 are equal."""
    rng = np.random.default_rng(seed)
    shape = (n_rows, LENGTH, N)
    ci = rng.choice(np.float32([0, 0.75, 1, 1]), shape)
    acts = rng.choice(np.float32([-2, -1, -0.0, 0, 1e-40, 1, 2]), shape)
    ci[..., 0], acts[..., 0] = 1, 3 - (rng.random(shape[:2]) < 0.01)
    probs = rng.random((n_rows, LENGTH, SETUP.vocab_size)).astype(np.float32)
    return Rows(rng.integers(0, SETUP.vocab_size, shape[:2]), ci, probs, acts)


def places(table, component: int) -> list[tuple[int, int]]:
    found = table.of_components(component, component + 1).located()
    return [(example.row, example.position) for example in found]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(3))
def test_ties_go_to_the_firing_that_is_sampled_first(seed: int, device: str):
    rows = tied_rows(seed, 40)
    state = harvest(SETUP, rows, device=device)
    for component in range(N):
        sampled = places(state.sample, component)
        assert set(sampled) == set(oracle.firings(rows.ci, component, SETUP.ci_threshold))
        for by, table in (("ci", state.highest_ci), ("activation", state.highest_activation)):
            expected = oracle.highest(sampled, rows.ci, rows.acts, component, by)
            assert places(table, component) == expected
            assert len(set(expected)) == 20


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(4))
def test_any_cut_gives_the_same(seed: int, device: str, tmp_path: Path):
    rng, rows = random.Random(seed), tied_rows(seed, 48)
    pieces = [(start, start + 2) for start in range(0, 48, 2)]
    rng.shuffle(pieces)
    harvesters = [SETUP.harvester(device) for _ in range(8)]
    for number, (start, stop) in enumerate(pieces):
        if number == 12:
            for shard, harvester in enumerate(harvesters):
                harvester.state().save(tmp_path / f"{shard}")
                resumed = HarvesterState.load(tmp_path / f"{shard}")
                harvesters[shard] = Harvester.from_state(resumed, device)
        feed(rng.choice(harvesters), rows, start, stop, device=device)
    states = [harvester.state() for harvester in harvesters]
    rng.shuffle(states)
    merged = HarvesterState.merge([HarvesterState.merge(states[:3]), *states[3:]])
    assert_same(merged, harvest(SETUP, rows, device=device), N)


@pytest.fixture
def before() -> HarvesterState:
    """A state of version 0.1."""
    (folder,) = (path for path in BEFORE.iterdir() if path.is_dir())
    return HarvesterState.load(folder / "state")


def more_rows(state: HarvesterState) -> tuple[torch.Tensor, ...]:
    settings, generator = state.settings, torch.Generator().manual_seed(1)
    shape = (6, 12)
    ci = torch.rand(*shape, settings.n_components, generator=generator)
    return (
        torch.randint(settings.vocab_size, shape, generator=generator),
        ci.masked_fill(ci < 0.5, 0).masked_fill(ci > 0.75, 1),
        torch.rand(*shape, settings.vocab_size, generator=generator),
        torch.randn(*shape, settings.n_components, generator=generator),
    )


def test_a_state_of_version_0_1_is_continued_and_added(before: HarvesterState, tmp_path: Path):
    assert before.highest_activation is None
    with pytest.raises(HarvestError, match="largest activation"):
        before.highest_activation_examples(0)
    rows = more_rows(before)
    new = Harvester.from_settings(before.settings)
    new.process_batch(*rows, first_row=10_000)
    continued = Harvester.from_state(before)
    continued.process_batch(*rows, first_row=10_000)
    continued.state().save(tmp_path)

    states = [before, new.state()]
    sums = [HarvesterState.merge(states), HarvesterState.merge(states[::-1])]
    for state in (*sums, continued.state(), HarvesterState.load(tmp_path)):
        assert state.highest_activation is None
        for one, other in zip(state.highest_ci, sums[0].highest_ci, strict=True):
            assert torch.equal(one, other)
    side = before.settings.window // 2
    for component in range(before.settings.n_components):
        kept = [
            (-example.ci_values[side], -abs(example.component_acts[side]))
            for state in states
            for example in state.highest_ci_examples(component)
        ]
        found = [
            (-example.ci_values[side], -abs(example.component_acts[side]))
            for example in sums[0].highest_ci_examples(component)
        ]
        assert found == sorted(kept)[:20]
    assert not StateSum(states).has_highest_activation
    assert StateSum(states[1:]).has_highest_activation
