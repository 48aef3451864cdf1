"""Each kernel against its formula in NumPy and float64; on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harvest_assets.harvester.batch import Batch
from harvest_assets.harvester.priorities import (
    firing_priorities,
    highest_activation_first,
    highest_ci_first,
    position_hashes,
)
from harvest_assets.harvester.state import HarvesterSettings
from harvest_assets.settings import SampleSettings
from harvest_assets_tests.harvester.gpu import DEVICE
from harvest_assets_tests.harvester.test_accumulate import peaked

pytest.importorskip("triton")

from harvest_assets.harvester.gpu import passes

THRESHOLD = 1e-6
# Rows and components: single ones, whole blocks, and what blocks do not divide.
SHAPES = [(1, 1), (3, 8), (128, 9), (300, 21), (7, 600)]
if DEVICE == "cuda":
    SHAPES.append((30_000, 2_500))


def causal_importances(n: int, n_components: int, dtype: torch.dtype = torch.float32):
    """The first component fires everywhere, the last one nowhere, some CI are at the threshold."""
    generator = torch.Generator().manual_seed(n)
    ci = torch.rand(n, n_components, generator=generator) * 1.2
    ci[torch.rand(n, n_components, generator=generator) > 0.1] = 0
    ci[::2, n_components // 2] = THRESHOLD
    ci[:, 0] = 0.7
    if n_components > 1:
        ci[:, -1] = -0.1
    return ci.to(DEVICE, dtype)


def on_host(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [tensor.cpu().numpy() for tensor in tensors]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(shape, torch.float32) for shape in SHAPES]
    + [((130, 9), torch.float64), ((130, 9), torch.bfloat16)],
)
def test_firings_are_found(shape: tuple[int, int], dtype: torch.dtype):
    ci = causal_importances(*shape, dtype)
    found = passes.find_firings(ci, THRESHOLD)
    firing = (ci > THRESHOLD).cpu().numpy()
    component, position = np.nonzero(firing.T)
    width = found.fired.shape[1]
    assert width % 16 == 0
    expected = np.pad(firing, ((0, 0), (0, width - shape[1])))
    assert (found.fired.float().cpu().numpy() == expected).all()
    assert found.starts.tolist() == [0, *np.cumsum(firing.sum(0)).tolist()]
    assert (found.position.cpu().numpy() == position).all()
    assert (found.component.cpu().numpy() == component).all()
    exact = ci.double().cpu().numpy().sum(0)
    np.testing.assert_allclose(found.ci_sums.cpu(), exact, rtol=1e-14, atol=1e-14)


def test_nothing_fires():
    found = passes.find_firings(torch.zeros(9, 5, device=DEVICE), THRESHOLD)
    assert len(found.position) == len(found.component) == 0
    assert found.starts.tolist() == [0] * 6
    mass = torch.ones(5, 3, dtype=torch.float64, device=DEVICE)
    passes.add_output_mass(mass, torch.rand(9, 3, device=DEVICE), found)
    assert (mass == 1).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_cofirings(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    dtype = torch.int64 if shape[1] == 8 else torch.int32
    if DEVICE == "cpu":
        monkeypatch.setattr(passes, "_TRIANGLE_ROWS", 256)
    found = passes.find_firings(causal_importances(*shape), THRESHOLD)
    count = torch.full((shape[1], shape[1]), 5, dtype=dtype, device=DEVICE)
    passes.add_cofirings(count, found.fired)
    firing = found.fired.double().cpu().numpy()[:, : shape[1]]
    upper = np.triu_indices(shape[1])
    assert (count.cpu().numpy()[upper] == 5 + (firing.T @ firing)[upper]).all()


@pytest.mark.parametrize(
    ("vocab", "dtype"),
    [(1, torch.float32), (256, torch.float64), (256, torch.bfloat16), (300, torch.float32)],
)
def test_output_mass(vocab: int, dtype: torch.dtype):
    n = 60
    ci = causal_importances(n, 12)
    found = passes.find_firings(ci, THRESHOLD)
    probs = peaked(n, vocab).to(DEVICE, dtype)
    mass = torch.full((12, vocab), 0.25, dtype=torch.float64, device=DEVICE)
    passes.add_output_mass(mass, probs, found)
    firing, values = on_host((ci > THRESHOLD).double(), probs.double())
    np.testing.assert_allclose(mass.cpu(), 0.25 + firing.T @ values, rtol=1e-13)


def test_output_mass_where_a_component_always_fires():
    """Over 2^20 positions on a GPU."""
    n = 1 << 19 if DEVICE == "cuda" else 301
    found = passes.find_firings(torch.ones(n, 1, device=DEVICE), THRESHOLD)
    mass = torch.zeros(1, 5, dtype=torch.float64, device=DEVICE)
    probs = peaked(n, 5).to(DEVICE)
    for _ in range(2):
        passes.add_output_mass(mass, probs, found)
    np.testing.assert_allclose(mass[0].cpu(), 2 * probs.double().sum(0).cpu(), rtol=1e-12)


def batch_of(ci: torch.Tensor, rows: int, side: int, seed: int = 7, vocab: int = 11) -> Batch:
    n, n_components = ci.shape
    settings = HarvesterSettings(
        layers=(("h", n_components),),
        vocab_size=vocab,
        sample=SampleSettings(activation_context_tokens_per_side=side, seed=seed),
    )
    generator = torch.Generator().manual_seed(3)
    shape = (rows, n // rows)
    return Batch.of(
        settings,
        torch.device(DEVICE),
        torch.randint(vocab, shape, generator=generator),
        ci.view(*shape, n_components),
        torch.rand(*shape, vocab, generator=generator),
        torch.randn(*shape, n_components, generator=generator),
        first_row=5,
    )


@pytest.mark.parametrize(
    ("dtype", "seed"), [(torch.int32, 0), (torch.int64, 1), (torch.int32, 1 << 62)]
)
def test_counts_and_priorities(dtype: torch.dtype, seed: int):
    ci = causal_importances(60, 9)
    edges = torch.logspace(-6, 0, 63, dtype=torch.float64).float()
    ci[:, 1] = edges[torch.arange(60) % 63].to(DEVICE)
    batch = batch_of(ci, rows=3, side=2, seed=seed)
    histogram = torch.ones(9, 64, dtype=torch.int64, device=DEVICE)
    inputs = torch.ones(9, 11, dtype=dtype, device=DEVICE)
    found = passes.find_firings(ci, THRESHOLD)
    priorities = passes.count_firings(batch, found.position, found.component, histogram, inputs)

    expected_histogram, expected_inputs = np.ones((9, 64)), np.ones((9, 11))
    values, tokens = on_host(ci, batch.tokens.flatten())
    component, position = (found.component.cpu().long(), found.position.cpu().long())
    for c, n in zip(component.tolist(), position.tolist(), strict=True):
        expected_histogram[c, np.searchsorted(edges.numpy(), values[n, c], side="right")] += 1
        expected_inputs[c, tokens[n]] += 1
    assert (histogram.cpu().numpy() == expected_histogram).all()
    assert (inputs.cpu().numpy() == expected_inputs).all()

    hashes = position_hashes(seed, position // 20 + 5, position % 20)
    drawn = firing_priorities(hashes, component)
    assert priorities["sample"].tolist() == drawn.tolist()
    acts = batch.component_acts.flatten(0, 1).cpu()
    given = (ci.cpu()[position, component], acts[position, component])
    assert priorities["highest_ci"].tolist() == highest_ci_first(*given).tolist()
    assert priorities["highest_activation"].tolist() == highest_activation_first(*given).tolist()


@pytest.mark.parametrize(("side", "rows"), [(0, 1), (1, 60), (3, 6), (10, 6)])
def test_windows(side: int, rows: int):
    ci = causal_importances(60, 9)
    batch = batch_of(ci, rows, side)
    position, component = (ci > THRESHOLD).nonzero(as_tuple=True)
    priority = torch.arange(len(position), device=DEVICE)
    expected = batch.windows(component, position, priority)
    found = passes.windows(batch, component.int(), position.int(), priority)
    for name, column in expected._asdict().items():
        assert getattr(found, name).dtype == column.dtype, name
        assert torch.equal(getattr(found, name), column), name
