"""Each firing of a component has the same chance to be among its examples.

Components and seeds are independent trials: one harvest gives as many samples as it has
components.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from harvest_assets.harvester import HarvesterState
from harvest_assets_tests.harvester.chance import (
    chi_square_limits,
    inclusion_chi_square,
    normal_limit,
)
from harvest_assets_tests.harvester.rows import Setup


def batch_of(n_firings, n_components, first_place):
    """One row in which all components fire at the last positions; activations name the firings."""
    length = n_firings + 2
    ci = torch.zeros(1, length, n_components)
    ci[:, 2:] = 1.0
    acts = torch.zeros_like(ci)
    acts[0, 2:] = torch.arange(first_place, first_place + n_firings).float()[:, None]
    tokens = torch.zeros(1, length, dtype=torch.int64)
    return tokens, ci, torch.ones(1, length, 1), acts


def samples(state, n_components):
    """The firings in each component's sample, by name and in order."""
    return [
        [int(example.component_acts[0]) for example in state.examples(component)]
        for component in range(n_components)
    ]


def harvest_batches(sizes, setup, first_row=0, first_place=0):
    """Batches of one row with the given numbers of firings."""
    harvester = setup.harvester()
    for index, size in enumerate(sizes):
        batch = batch_of(size, setup.n_components, first_place)
        harvester.process_batch(*batch, first_row + index)
        first_place += size
    return harvester.state()


def capped_sample(rng, sizes, k):
    """A biased sample: at most five firings of a batch enter the reservoir."""
    pool = []
    first = 0
    for size in sizes:
        pool.extend(first + rng.permutation(size)[:5])
        first += size
    return rng.permutation(pool)[:k]


def test_firings_of_dense_and_of_sparse_batches():
    n_components, n_seeds, k = 200, 8, 10
    sizes = [40, *[1] * 11] * 5
    n_firings = sum(sizes)
    n_trials = n_components * n_seeds
    drawn = []
    for seed in range(n_seeds):
        setup = Setup((("a", n_components),), 1, k=k, side=0, seed=seed)
        drawn.extend(samples(harvest_batches(sizes, setup), n_components))
    rng = np.random.default_rng(0)
    capped = [capped_sample(rng, sizes, k) for _ in range(n_trials)]

    low, high = chi_square_limits(n_firings - 1)
    # Any first m examples are a uniform sample too.
    for m in (1, 4, k):
        counts = np.bincount([f for sample in drawn for f in sample[:m]], minlength=n_firings)
        assert low < inclusion_chi_square(counts, n_trials, m) < high
        counts = np.bincount([f for sample in capped for f in sample[:m]], minlength=n_firings)
        assert inclusion_chi_square(counts, n_trials, m) > high


def test_shards_with_100_and_900_firings():
    n_components, n_seeds, k = 200, 8, 50
    shares = []
    for seed in range(n_seeds):
        setup = Setup((("a", n_components),), 1, k=k, side=0, seed=seed)
        shards = [
            harvest_batches([25] * 4, setup),
            harvest_batches([25] * 36, setup, first_row=4, first_place=100),
        ]
        merged = samples(HarvesterState.merge(shards), n_components)
        shares.extend(np.mean(np.array(sample) < 100) for sample in merged)
    p = 100 / 1000
    deviation = (p * (1 - p) / k * (1000 - k) / 999 / len(shares)) ** 0.5
    # A merge by weights that are no firing counts gives the first shard a share of 0.175.
    assert abs(0.175 - p) > normal_limit() * deviation
    assert abs(np.mean(shares) - p) < normal_limit() * deviation


@pytest.fixture(scope="module")
def inclusion():
    """Whether a firing is in its sample: bool [seed, row, position, component], a quarter is.

    Everything fires; all four dimensions have one size, so that they can be exchanged.
    """
    size = 12
    acts = torch.arange(size * size).view(size, size, 1).expand(-1, -1, size).float()
    tokens = torch.zeros(size, size, dtype=torch.int64)
    included = np.zeros((size, size * size, size), bool)
    for seed in range(size):
        harvester = Setup((("a", size),), 1, k=size * size // 4, side=0, seed=seed).harvester()
        harvester.process_batch(tokens, torch.ones_like(acts), torch.ones(size, size, 1), acts, 0)
        for component, sample in enumerate(samples(harvester.state(), size)):
            included[seed, sample, component] = True
    return included.reshape(size, size, size, size)


def linear_inclusion(size=12):
    """The same with priorities that a weak hash gives: linear in seed, row, position, component."""
    s, r, p, c = np.indices((size,) * 4)
    priorities = (s * 1_000_003 + r * 8_191 + p * 127 + c * 31) % 65_521
    flat = priorities.transpose(0, 3, 1, 2).reshape(size, size, -1)
    ranks = flat.argsort(-1).argsort(-1)
    return (ranks < size * size // 4).reshape((size,) * 4).transpose(0, 2, 3, 1)


def dependences(included):
    """Standard normal values, if no inclusion depends on its neighbours'.

    Each firing against its neighbour in any of the directions, and against the firing that has two
    of seed, row, position and component exchanged.
    """
    size = len(included)
    n = size * size
    p = included.mean()
    residuals = (included - p) / (p * (1 - p)) ** 0.5
    values = {}

    def compare(name, left, right, same_sample):
        # Within a sample of k of n, an inclusion makes the others a little less likely.
        expected = -len(left) / (n - 1) if same_sample else 0.0
        values[name] = float((left * right).sum() - expected) / len(left) ** 0.5

    for shift in itertools.product((-1, 0, 1), repeat=4):
        if shift > (0, 0, 0, 0):
            there = tuple(slice(max(0, d), size + min(0, d)) for d in shift)
            here = tuple(slice(max(0, -d), size + min(0, -d)) for d in shift)
            left, right = residuals[here].ravel(), residuals[there].ravel()
            compare(shift, left, right, same_sample=shift[0] == shift[3] == 0)
    for first, second in itertools.combinations(range(4), 2):
        indices = np.indices(residuals.shape)
        above = indices[first] < indices[second]
        left, right = residuals[above], residuals.swapaxes(first, second)[above]
        compare((first, second), left, right, same_sample=(first, second) == (1, 2))
    return values


def test_inclusion_does_not_depend_on_neighbours(inclusion):
    values = dependences(inclusion)
    limit = normal_limit(len(values))
    assert {name: value for name, value in values.items() if abs(value) > limit} == {}
    assert max(map(abs, dependences(linear_inclusion()).values())) > limit


def test_rows_positions_and_components_are_sampled_evenly(inclusion):
    """Per seed and component a sample is fixed in size; over rows and positions it is spread."""
    size = len(inclusion)
    counts = inclusion.sum((0, 3)).ravel()
    low, high = chi_square_limits(size * size - 1)
    assert low < inclusion_chi_square(counts, size * size, size * size // 4) < high


def test_the_order_of_examples_is_a_random_permutation():
    n_components, n_seeds, length, n_rows = 200, 4, 8, 5
    n = length * n_rows
    acts = torch.arange(n).view(n_rows, length, 1).expand(-1, -1, n_components).float()
    ones = torch.ones(n_rows, length, n_components)
    tokens = torch.zeros(n_rows, length, dtype=torch.int64)
    orders = []
    for seed in range(n_seeds):
        harvester = Setup((("a", n_components),), 1, k=n, side=0, seed=seed).harvester()
        harvester.process_batch(tokens, ones, ones[..., :1], acts, 0)
        orders.extend(samples(harvester.state(), n_components))
    ranks = np.argsort(orders, 1)

    places = np.zeros((n, n))
    np.add.at(places, (np.arange(n), ranks), 1)
    expected = len(ranks) / n
    # Rows and columns of a sum of permutation matrices are fixed: (n - 1)**2 degrees are left.
    chi_square = ((places - expected) ** 2).sum() * (n - 1) / len(ranks)
    low, high = chi_square_limits((n - 1) ** 2)
    assert low < chi_square < high

    residuals = (ranks - (n - 1) / 2) / ((n * n - 1) / 12) ** 0.5
    for step in (1, length):
        products = residuals[:, step:] * residuals[:, :-step]
        value = (products.sum() + products.size / (n - 1)) / products.size**0.5
        assert abs(value) < normal_limit(2)


def test_neighbouring_components_pick_different_firings():
    """With one firing kept of 1000, two of 200 components agree as often as chance has it."""
    n_components = 200
    setup = Setup((("a", n_components),), 1, k=1, side=0)
    picks = [sample[0] for sample in samples(harvest_batches([100] * 10, setup), n_components)]
    agreeing = sum(a == b for a, b in itertools.combinations(picks, 2))
    pairs = n_components * (n_components - 1) / 2
    # About Poisson, with 20 expected.
    assert abs(agreeing - pairs / 1000) < normal_limit() * (pairs / 1000) ** 0.5


def test_no_two_places_of_long_rows_share_a_priority():
    """Places that a hash confuses are neighbours, always the same distance apart."""
    n_rows, length = 3, 3000
    n = n_rows * length
    places = torch.arange(n).view(n_rows, length, 1).float()
    ones = torch.ones_like(places)
    for first_row in (0, 10**6):
        harvester = Setup((("a", 1),), 1, k=n, side=0).harvester()
        tokens = torch.zeros(n_rows, length, dtype=torch.int64)
        harvester.process_batch(tokens, ones, ones, places, first_row)
        steps = np.diff(samples(harvester.state(), 1)[0])
        # Each of the steps comes about once; of n Poisson counts hardly one is above 12.
        assert np.unique(steps, return_counts=True)[1].max() <= 12
