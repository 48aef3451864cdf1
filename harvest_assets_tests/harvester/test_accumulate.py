"""The big sums against float64 matrix products of NumPy, in every form that a chunk can take."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harvest_assets.harvester import accumulate
from harvest_assets.harvester.firing_list import FiringList


def firings(n: int, n_components: int, density: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    # Some components fire often, most hardly ever, one always and one never.
    rate = density * 2 * torch.rand(n_components, generator=generator) ** 2
    firing = torch.rand(n, n_components, generator=generator) < rate
    firing[:, 0], firing[:, -1] = True, False
    return firing


def peaked(n: int, vocab: int, seed: int = 1) -> torch.Tensor:
    """Probabilities over 30 orders of magnitude."""
    logits = torch.randn(n, vocab, generator=torch.Generator().manual_seed(seed)) * 12
    return logits.softmax(dim=-1)


def exact(firing: torch.Tensor, values: torch.Tensor) -> np.ndarray:
    return firing.numpy().astype(np.float64).T @ values.numpy().astype(np.float64)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    ("n", "n_components", "density"),
    [(1, 1, 0.5), (7, 33, 0.5), (300, 40, 0.02), (65, 1100, 0.01), (33, 2100, 0.3)],
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_cofirings(n: int, n_components: int, density: float, listed: bool, dtype: torch.dtype):
    firing = firings(n, n_components, density)
    count = torch.full((n_components, n_components), 5, dtype=dtype)
    accumulate.add_cofirings(count, firing, FiringList.of(firing) if listed else None)
    upper = np.triu_indices(n_components)
    assert (count.numpy()[upper] == 5 + exact(firing, firing)[upper]).all()


@pytest.mark.parametrize("few", [True, False])
def test_cofirings_do_not_depend_on_the_form(monkeypatch: pytest.MonkeyPatch, few: bool):
    firing = firings(200, 90, 0.05)
    monkeypatch.setattr(accumulate, "_MULTIPLY_ADDS_PER_PAIR", 0 if few else 1 << 60)
    monkeypatch.setattr(accumulate, "_PAIR_ENTRIES", 90 * 7)
    monkeypatch.setattr(accumulate, "_TRIANGLE_ROWS", 32)
    count = torch.zeros(90, 90, dtype=torch.int32)
    accumulate.add_cofirings(count, firing, FiringList.of(firing))
    assert (np.triu(count) == np.triu(exact(firing, firing))).all()


def test_cofirings_without_int8_units(monkeypatch: pytest.MonkeyPatch):
    firing = firings(200, 90, 0.3)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    count = torch.zeros(90, 90, dtype=torch.int32)
    accumulate.add_cofirings(count, firing, None)
    assert (np.triu(count) == np.triu(exact(firing, firing))).all()


@pytest.mark.parametrize("density", [0.01, 0.5])
@pytest.mark.parametrize("vocab", [1, 255, 257, 5000])
def test_output_mass(density: float, vocab: int):
    firing, probs = firings(120, 50, density), peaked(120, vocab)
    mass = torch.full((50, vocab), 0.25, dtype=torch.float64)
    accumulate.add_output_mass(mass, firing, probs, FiringList.if_sparse(firing))
    np.testing.assert_allclose(mass, 0.25 + exact(firing, probs), rtol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_output_mass_of_split_products(dtype: torch.dtype):
    """The form of a GPU, here with the same parts multiplied on a CPU; more than one block."""
    firing, probs = firings(4500, 30, 0.2), peaked(4500, 4200).to(dtype)
    mass = torch.zeros(30, 4200, dtype=torch.float64)
    accumulate.add_split_product(mass, firing, probs)
    expected = exact(firing, probs.double())
    np.testing.assert_allclose(mass[:-1], expected[:-1], rtol=1e-5)
    assert (mass[-1] == 0).all()


def test_a_list_of_what_is_dense_is_not_made():
    assert FiringList.if_sparse(firings(100, 50, 0.9)) is None
    assert FiringList.if_sparse(torch.zeros(0, 5, dtype=torch.bool)) is not None


def test_the_list():
    firing = firings(40, 30, 0.2)
    listed = FiringList.of(firing)
    position, component = np.nonzero(firing.numpy())
    assert (listed.position.numpy() == position).all()
    assert (listed.component.numpy() == component).all()
    order = np.lexsort((position, component))
    assert (listed.by_component.numpy() == order).all()
    assert (listed.per_component.numpy() == firing.numpy().sum(0)).all()
    assert (listed.per_position.numpy() == firing.numpy().sum(1)).all()
