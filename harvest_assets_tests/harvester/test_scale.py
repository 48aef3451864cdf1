"""Counts beyond what a float32 and an int32 can count, and memory that stays small."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from harvest_assets.harvester import Harvester, HarvesterState
from harvest_assets_tests.harvester.rows import Setup

SETUP = Setup((("a", 2),), 2, k=3, side=1)
N_ROWS, LENGTH = 16, 2048
N_BATCHES = 2**24 // (N_ROWS * LENGTH)


@pytest.fixture(scope="module")
def large_state():
    """Component 0 fires everywhere, component 1 at one position; 2**24 + 1 positions.

    All batches but the last are merged copies of one; the last ones are added to their sum.
    """
    tokens = torch.ones(N_ROWS, LENGTH, dtype=torch.int64)
    tokens[0, 0] = 0
    ci = torch.tensor([0.7, 0.013]).expand(N_ROWS, LENGTH, 2)
    probs = torch.tensor([0.3, 0.7]).expand(N_ROWS, LENGTH, 2)
    acts = torch.ones(N_ROWS, LENGTH, 2)
    harvester = SETUP.harvester()
    harvester.process_batch(tokens, ci, probs, acts, 0)
    copies = HarvesterState.merge([harvester.state()] * (N_BATCHES - 1))
    harvester = Harvester.from_state(copies, "cpu")
    harvester.process_batch(tokens, ci, probs, acts, N_ROWS)
    one = torch.ones(1, 1, 2)
    harvester.process_batch(tokens[:1, 1:2], one, one, one, 2 * N_ROWS)
    return harvester.state()


def float32(value):
    return torch.tensor(value, dtype=torch.float32).item()


def check(state, times, more=0):
    """The large state's statistics `times` over, and `more` of its last position."""
    n = times * 2**24
    zeros = times * N_BATCHES
    ones = times + more
    assert state.total_tokens_processed == n + ones
    assert state.firing_counts.tolist() == [n + ones, ones]
    assert state.count_ij.tolist() == [[n + ones, ones], [ones, ones]]
    assert state.input_token_totals.tolist() == [zeros, n - zeros + ones]
    assert state.input_token_counts.tolist() == [[zeros, n - zeros + ones], [0, ones]]
    sums = [n * float32(0.7) + ones, n * float32(0.013) + ones]
    assert state.ci_sums.tolist() == pytest.approx(sums, rel=1e-12, abs=0)
    mass = [n * float32(0.3) + ones, n * float32(0.7) + ones]
    assert state.output_token_prob_totals.tolist() == pytest.approx(mass, rel=1e-12, abs=0)
    assert state.output_token_prob_mass[0].tolist() == pytest.approx(mass, rel=1e-12, abs=0)
    assert state.output_token_prob_mass[1].tolist() == [ones, ones]


def test_counts_beyond_2_to_the_24(large_state, tmp_path):
    check(large_state, 1)
    large_state.save(tmp_path / "state")
    check(HarvesterState.load(tmp_path / "state"), 1)


def test_counts_beyond_2_to_the_32(large_state, tmp_path):
    one = torch.ones(1, 1, 2)
    last = (torch.ones(1, 1, dtype=torch.int64), one, one, one)
    harvester = SETUP.harvester()
    harvester.process_batch(*last, 10**6)
    little = harvester.state()

    # For the counts, merging a state with itself is like merging one of equal rows.
    state = large_state
    times = 1
    while state.total_tokens_processed < 2**32:
        state = HarvesterState.merge([state, state])
        times *= 2
    check(HarvesterState.merge([little, state]), times, more=1)

    state.save(tmp_path / "state")
    state = HarvesterState.load(tmp_path / "state")
    check(state, times)
    harvester = Harvester.from_state(state, "cpu")
    harvester.process_batch(*last, 10**6)
    check(harvester.state(), times, more=1)


@pytest.mark.parametrize("count", [254, 255, 256, 32_766, 32_767, 32_768, 65_536])
def test_counts_around_the_ends_of_narrow_integers(count, tmp_path):
    ones = torch.ones(1, count, 1)
    harvester = Harvester([("a", 1)], 1, max_examples_per_component=2)
    harvester.process_batch(torch.zeros(1, count, dtype=torch.int64), ones, ones, ones, 0)
    state = harvester.state()
    state.save(tmp_path / "state")
    loaded = HarvesterState.load(tmp_path / "state")
    doubled = HarvesterState.merge([state, loaded])
    restored = Harvester.from_state(doubled, "cpu").state()
    for found, times in ((state, 1), (loaded, 1), (doubled, 2), (restored, 2)):
        assert found.count_ij.tolist() == [[times * count]]
        assert found.input_token_counts.tolist() == [[times * count]]
        assert found.firing_counts.tolist() == [times * count]
        assert found.input_token_totals.tolist() == [times * count]


@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_counts_around_2_to_the_31(beyond):
    """Batches and merges on both sides of the last int32."""
    n = 2**31 + beyond
    one = torch.ones(1, 1, 1)
    token = torch.zeros(1, 1, dtype=torch.int64)
    setup = Setup((("a", 1),), 1, k=1, side=0)
    harvester = setup.harvester()
    harvester.process_batch(token, one, one, one, 0)
    power = harvester.state()
    states = []
    for bit in range(32):
        if (n - 3) >> bit & 1:
            states.append(power)
        power = HarvesterState.merge([power, power])
    harvester = Harvester.from_state(HarvesterState.merge(states), "cpu")
    for row in range(1, 7):
        harvester.process_batch(token, one, one, one, row)
        state = harvester.state()
        expected = n - 3 + row
        assert state.count_ij.tolist() == [[expected]]
        assert state.input_token_counts.tolist() == [[expected]]
        assert state.firing_counts.tolist() == [expected]
        assert state.total_tokens_processed == expected


MEASURE = """
import sys
from pathlib import Path
import torch
from harvest_assets.harvester import Harvester

def peak():
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

n_components, length, vocab = int(sys.argv[1]), int(sys.argv[2]), 16
harvester = Harvester([("a", n_components)], vocab, max_examples_per_component=4)
tokens = torch.zeros(1, length, dtype=torch.int64)
ci = torch.ones(1, length, n_components)
acts = torch.ones(1, length, n_components)
probs = torch.ones(1, length, vocab)
# The accumulators and the thread pools are there before the measurement.
harvester.process_batch(tokens[:, :64], ci[:, :64], probs[:, :64], acts[:, :64], 0)
before = peak()
harvester.process_batch(tokens, ci, probs, acts, 1)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("length", [4096, pytest.param(16384, marks=pytest.mark.rehearsal)])
def test_a_dense_batch_is_worked_off_in_chunks(length):
    """Beside its inputs and the sums, a batch in which everything fires needs no more for more.

    Listing a firing costs some 140 bytes (component, position, priority, their sorting); listed at
    once, these are 1.1 and 4.6 GB.
    """
    command = [sys.executable, "-c", MEASURE, "2000", str(length)]
    growth = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(growth) < 512 * 2**20
