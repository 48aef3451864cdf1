"""A harvest is a sum: however the rows are cut, the same state."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harvest_assets.errors import HarvestError
from harvest_assets.harvester import Harvester, HarvesterState
from harvest_assets_tests.harvester.rows import (
    DEVICES,
    Setup,
    all_examples,
    assert_genuine_examples,
    assert_identical,
    assert_same,
    feed,
    harvest,
    random_rows,
)

SETUP = Setup((("h.0.attn", 5), ("h.0.mlp", 4)), 7, ci_threshold=0.5, k=6, side=2, seed=11)


def in_pieces(rng, n_rows):
    """Cut rows into batches of any size, in any order."""
    cuts = sorted(rng.sample(range(1, n_rows), rng.randint(0, n_rows - 1)))
    pieces = list(zip([0, *cuts], [*cuts, n_rows], strict=True))
    rng.shuffle(pieces)
    return pieces


def merged_anyhow(rng, states):
    """Merge random groups until one state is left."""
    states = list(states)
    while len(states) > 1:
        rng.shuffle(states)
        size = rng.randint(2, len(states))
        states = [*states[size:], HarvesterState.merge(states[:size])]
    return states[0]


@pytest.mark.parametrize("device", DEVICES)
@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_rows=st.integers(2, 14),
    length=st.integers(1, 9),
    density=st.sampled_from([0.05, 0.4, 1.0]),
    first_row=st.sampled_from([0, 123_456_789]),
)
def test_any_cut_of_the_rows(device, seed, n_rows, length, density, first_row):
    rng = random.Random(seed)
    rows = random_rows(np.random.default_rng(seed), SETUP, n_rows, length, density)
    whole = harvest(SETUP, rows, first_row, device)

    harvesters = [SETUP.harvester(device) for _ in range(rng.randint(1, 4))]
    for start, stop in in_pieces(rng, n_rows):
        feed(rng.choice(harvesters), rows, start, stop, first_row, device)
    state = merged_anyhow(rng, [harvester.state() for harvester in harvesters])

    assert_same(state, whole, SETUP.n_components)
    assert_genuine_examples(state, SETUP, rows)


def test_eight_shards_with_full_reservoirs():
    rows = random_rows(np.random.default_rng(0), SETUP, 80, 40, 0.5)
    whole = harvest(SETUP, rows)
    shards = []
    for shard in range(8):
        harvester = SETUP.harvester()
        for start in range(shard * 2, 80, 16):
            feed(harvester, rows, start, start + 2)
        shards.append(harvester.state())
    assert_same(HarvesterState.merge(shards), whole, SETUP.n_components)
    assert_same(HarvesterState.merge(shards[::-1]), whole, SETUP.n_components)
    for seed in range(5):
        assert_same(merged_anyhow(random.Random(seed), shards), whole, SETUP.n_components)


def test_the_row_decides_the_sample():
    """The same batch elsewhere in the harvest gives other examples: the row counts."""
    rows = random_rows(np.random.default_rng(1), SETUP, 10, 9, 0.8)
    orders = [
        str(all_examples(harvest(SETUP, rows, first_row), SETUP.n_components))
        for first_row in (0, 1, 10, 2**31, 2**32, 2**33)
    ]
    assert len(set(orders)) == len(orders)


def test_merging_leaves_its_parts_alone_and_knows_one_and_empty():
    rows = random_rows(np.random.default_rng(2), SETUP, 8, 5)
    parts = [harvest(SETUP, rows.part(0, 3)), harvest(SETUP, rows.part(3, 8), 3)]
    again = [harvest(SETUP, rows.part(0, 3)), harvest(SETUP, rows.part(3, 8), 3)]
    empty = SETUP.harvester().state()
    merged = HarvesterState.merge(parts)
    kept = HarvesterState.merge([empty, merged])
    HarvesterState.merge([merged, harvest(SETUP, rows, 1000)])

    for part, copy in zip(parts, again, strict=True):
        assert_identical(part, copy, SETUP.n_components)
    assert_identical(kept, merged, SETUP.n_components)
    assert_identical(HarvesterState.merge([merged]), merged, SETUP.n_components)
    assert_same(merged, harvest(SETUP, rows), SETUP.n_components)


@pytest.mark.parametrize("device", DEVICES)
def test_going_on_from_a_state(device):
    rows = random_rows(np.random.default_rng(3), SETUP, 30, 9, 0.6)
    whole = harvest(SETUP, rows, device=device)
    state = harvest(SETUP, rows.part(0, 10), device=device)
    copy = harvest(SETUP, rows.part(0, 10), device=device)
    for start in (10, 20):
        harvester = Harvester.from_state(state, device)
        assert_identical(harvester.state(), state, SETUP.n_components)
        feed(harvester, rows, start, start + 10, device=device)
        if start == 10:
            assert_identical(state, copy, SETUP.n_components)
        state = harvester.state()
    assert_same(state, whole, SETUP.n_components)


@pytest.mark.parametrize(
    "other",
    [
        {"layers": (("h.0.attn", 4), ("h.0.mlp", 5))},
        {"layers": (("h.0.mlp", 5), ("h.0.attn", 4))},
        {"layers": (("h.0.attn", 9),)},
        {"layers": (("h.0.attn", 5),)},
        {"vocab_size": 8},
        {"ci_threshold": 0.25},
        {"k": 7},
        {"side": 3},
        {"seed": 12},
    ],
    ids=lambda other: "-".join(map(str, *other.items())),
)
def test_states_of_other_settings_are_refused(other):
    setup = Setup(**{**vars(SETUP), **other})
    states = [SETUP.harvester().state(), setup.harvester().state()]
    for pair in (states, states[::-1], [states[0], states[0], states[1]]):
        with pytest.raises((HarvestError, ValueError)) as caught:
            HarvesterState.merge(pair)
        assert len(str(caught.value).split()) > 3


def test_merging_nothing_is_refused():
    with pytest.raises((HarvestError, ValueError)) as caught:
        HarvesterState.merge([])
    assert len(str(caught.value).split()) > 3


@pytest.mark.parametrize("n_rows", [0, 1, 25])
def test_a_state_through_a_directory(tmp_path, n_rows):
    rows = random_rows(np.random.default_rng(4), SETUP, max(n_rows, 1), 9, 0.5)
    state = harvest(SETUP, rows.part(0, n_rows)) if n_rows else SETUP.harvester().state()
    state.save(tmp_path / "state")
    loaded = HarvesterState.load(tmp_path / "state")
    assert_identical(loaded, state, SETUP.n_components)
    # A loaded state is as good as any: it is saved, merged and gone on from.
    loaded.save(tmp_path / "again")
    assert_identical(HarvesterState.load(tmp_path / "again"), state, SETUP.n_components)
    more = random_rows(np.random.default_rng(5), SETUP, 6, 9, 0.5)
    harvester = Harvester.from_state(loaded, "cpu")
    feed(harvester, more, 0, 6, first_row=n_rows)
    merged = HarvesterState.merge([loaded, harvest(SETUP, more, n_rows)])
    assert_same(harvester.state(), merged, SETUP.n_components)
    # Nor did going on write through to the files.
    assert_identical(HarvesterState.load(tmp_path / "state"), state, SETUP.n_components)


def test_shards_through_directories(tmp_path):
    rows = random_rows(np.random.default_rng(6), SETUP, 40, 9, 0.5)
    for shard in range(4):
        part = harvest(SETUP, rows.part(10 * shard, 10 * shard + 10), 10 * shard)
        part.save(tmp_path / str(shard))
    loaded = [HarvesterState.load(tmp_path / str(shard)) for shard in (2, 0, 3, 1)]
    assert_same(HarvesterState.merge(loaded), harvest(SETUP, rows), SETUP.n_components)


def test_a_directory_without_a_state_is_refused(tmp_path):
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises((HarvestError, ValueError, OSError)) as caught:
            HarvesterState.load(directory)
        assert str(tmp_path) in str(caught.value)


def test_a_state_with_a_missing_or_cut_file_is_refused(tmp_path):
    rows = random_rows(np.random.default_rng(7), SETUP, 10, 9, 0.5)
    state = harvest(SETUP, rows)
    names = None
    for case in ("missing", "cut", "empty"):
        for number in range(len(names or [0])):
            directory = tmp_path / f"{case}{number}"
            state.save(directory)
            names = sorted(path for path in directory.rglob("*") if path.is_file())
            content = names[number].read_bytes()
            if case == "missing":
                names[number].unlink()
            else:
                names[number].write_bytes(content[: len(content) // 2] if case == "cut" else b"")
            with pytest.raises((HarvestError, ValueError, OSError)):
                HarvesterState.load(directory)


def test_a_state_saved_from_a_cuda_harvester_opens_on_the_cpu(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    rows = random_rows(np.random.default_rng(8), SETUP, 10, 9, 0.5)
    state = harvest(SETUP, rows, device="cuda")
    state.save(tmp_path / "state")
    loaded = HarvesterState.load(tmp_path / "state")
    assert_same(loaded, harvest(SETUP, rows, device="cpu"), SETUP.n_components)
