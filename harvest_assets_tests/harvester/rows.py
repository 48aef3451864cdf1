"""Small inputs for a harvester, and states compared with the oracle and with one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from harvest_assets.harvester import Harvester
from harvest_assets_tests import oracle

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
INTEGERS = ("firing_counts", "count_ij", "input_token_counts", "input_token_totals")
FLOATS = ("ci_sums", "output_token_prob_mass", "output_token_prob_totals")


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a harvest, as NumPy arrays."""

    tokens: np.ndarray  # int64 [rows, S]
    ci: np.ndarray  # float32 [rows, S, C]
    probs: np.ndarray  # float32 [rows, S, V]
    acts: np.ndarray  # float32 [rows, S, C]

    def __len__(self):
        return len(self.tokens)

    def part(self, start, stop):
        return Rows(*(array[start:stop] for array in (self.tokens, self.ci, self.probs, self.acts)))

    def tensors(self, device="cpu"):
        """Copies as tensors, to be spoiled freely."""
        arrays = (self.tokens, self.ci, self.probs, self.acts)
        return tuple(torch.tensor(array, device=device) for array in arrays)


@dataclass(frozen=True)
class Setup:
    """What a harvester is made with."""

    layers: tuple[tuple[str, int], ...]
    vocab_size: int
    ci_threshold: float = 0.5
    k: int = 1000
    side: int = 2
    seed: int = 0

    @property
    def n_components(self):
        return sum(size for _, size in self.layers)

    def harvester(self, device="cpu"):
        return Harvester(
            list(self.layers),
            self.vocab_size,
            ci_threshold=self.ci_threshold,
            max_examples_per_component=self.k,
            context_tokens_per_side=self.side,
            seed=self.seed,
            device=device,
        )


def naming_acts(n_rows, length, n_components):
    """Activations that identify their position and component: see `named_firing`.

    Sixteenths of whole numbers, exact in float32 for up to 16 components and 2**20 positions.
    """
    place = np.arange(1, n_rows * length + 1, dtype=np.float32).reshape(n_rows, length, 1)
    return place + np.arange(n_components, dtype=np.float32) / 16


def named_firing(example, length):
    """The (row, position, component) of an example whose activations are `naming_acts`."""
    middle = example.component_acts[len(example.component_acts) // 2]
    place = int(middle)
    return (*divmod(place - 1, length), round((middle - place) * 16))


def random_rows(rng, setup, n_rows, length, density=0.3):
    """Rows in which components fire at `density`, beside values around the threshold."""
    n_components = setup.n_components
    threshold = np.float32(setup.ci_threshold)
    shape = (n_rows, length, n_components)
    quiet = np.array([0.0, -0.01, threshold, np.nextafter(threshold, np.float32(-1))], np.float32)
    loud = np.array([np.nextafter(threshold, np.float32(2)), 1.0, 1.0078125], np.float32)
    loud = np.concatenate([loud, (threshold + (1 - threshold) * rng.random(5)).astype(np.float32)])
    loud = loud[loud > threshold]
    fires = rng.random(shape) < density
    ci = np.where(fires, rng.choice(loud, shape), rng.choice(quiet, shape)).astype(np.float32)
    probs = rng.random((n_rows, length, setup.vocab_size)).astype(np.float32)
    probs *= rng.random(probs.shape) < 0.8
    return Rows(
        rng.integers(0, setup.vocab_size, (n_rows, length)),
        ci,
        probs,
        naming_acts(n_rows, length, n_components),
    )


def feed(harvester, rows, start, stop, first_row=0, device="cpu"):
    """Process the rows from `start` to `stop` as one batch."""
    harvester.process_batch(*rows.part(start, stop).tensors(device), first_row + start)


def harvest(setup, rows, first_row=0, device="cpu"):
    """The state of all rows, taken as one batch."""
    harvester = setup.harvester(device)
    feed(harvester, rows, 0, len(rows), first_row, device)
    return harvester.state()


def all_examples(state, n_components):
    return [state.examples(component) for component in range(n_components)]


def assert_shapes_and_types(state, setup):
    size, vocab = setup.n_components, setup.vocab_size
    expected = {
        "firing_counts": ((size,), torch.int64),
        "count_ij": ((size, size), torch.int64),
        "input_token_counts": ((size, vocab), torch.int64),
        "input_token_totals": ((vocab,), torch.int64),
        "ci_sums": ((size,), torch.float64),
        "output_token_prob_mass": ((size, vocab), torch.float64),
        "output_token_prob_totals": ((vocab,), torch.float64),
    }
    for name, (shape, dtype) in expected.items():
        value = getattr(state, name)
        assert isinstance(value, torch.Tensor), name
        assert (tuple(value.shape), value.dtype) == (shape, dtype), name
        assert (value.device.type, value.layout) == ("cpu", torch.strided), name
    assert type(state.total_tokens_processed) is int
    for examples in all_examples(state, size):
        for example in examples:
            width = 2 * setup.side + 1
            assert len(example.token_ids) == width
            assert len(example.ci_values) == width
            assert len(example.component_acts) == width
            assert {type(token) for token in example.token_ids} == {int}
            assert {type(x) for x in example.ci_values + example.component_acts} == {float}


def assert_is(state, expected, ci):
    """The state has the oracle's statistics: integers exactly, sums to 1e-12 of their terms."""
    for name in INTEGERS:
        np.testing.assert_array_equal(getattr(state, name).numpy(), getattr(expected, name), name)
    assert state.total_tokens_processed == expected.total_tokens_processed
    for name in FLOATS:
        # CI may be negative and cancel: relative to what was added up, not to what is left.
        terms = np.abs(ci).sum((0, 1), np.float64) if name == "ci_sums" else 0
        difference = np.abs(getattr(state, name).numpy() - getattr(expected, name))
        allowed = 1e-12 * np.maximum(terms, np.abs(getattr(expected, name)))
        assert (difference <= allowed).all(), name


def assert_same(state, other, n_components):
    """Two states of the same rows: integers and examples exactly, sums to 1e-12."""
    for name in INTEGERS:
        torch.testing.assert_close(getattr(state, name), getattr(other, name), rtol=0, atol=0)
    assert state.total_tokens_processed == other.total_tokens_processed
    torch.testing.assert_close(state.ci_histogram, other.ci_histogram, rtol=0, atol=0)
    for name in FLOATS:
        torch.testing.assert_close(
            getattr(state, name), getattr(other, name), rtol=1e-12, atol=1e-13
        )
    assert all_examples(state, n_components) == all_examples(other, n_components)
    for component in range(n_components):
        assert state.highest_ci_examples(component) == other.highest_ci_examples(component)
        assert state.highest_activation_examples(component) == other.highest_activation_examples(
            component
        )


def assert_identical(state, other, n_components):
    """Nothing between the two happened: sums too are the same bit for bit."""
    assert_same(state, other, n_components)
    for name in FLOATS:
        assert torch.equal(getattr(state, name), getattr(other, name)), name


def assert_genuine_examples(state, setup, rows):
    """Distinct firings in their true windows; min(k, firings) of them for each component."""
    length = rows.tokens.shape[1]
    for component in range(setup.n_components):
        firings = oracle.firings(rows.ci, component, setup.ci_threshold)
        examples = state.examples(component)
        assert len(examples) == min(setup.k, len(firings))
        seen = set()
        for example in examples:
            row, position, named = named_firing(example, length)
            assert named == component
            assert (row, position) in firings
            seen.add((row, position))
            window = oracle.window(
                rows.tokens,
                rows.ci,
                rows.acts,
                (row, position),
                component,
                tokens_per_side=setup.side,
            )
            assert example.token_ids == window.token_ids
            assert example.ci_values == window.ci_values
            assert example.component_acts == window.component_acts
        assert len(seen) == len(examples)
