from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.decompositions.spd.ci_functions import (
    CI_FUNCTIONS,
    open_ci_function,
    parallel_mlp,
)
from harvest_assets.decompositions.spd.decomposed_layers import DecomposedLayer
from harvest_assets.errors import HarvestError
from harvest_assets_tests.decompositions.spd import random_runs

CPU = torch.device("cpu")
KINDS = ("mlp", "vector_mlp", "shared_mlp")


def _opened(d_in: int, c: int, hidden: list[int], seed: int = 0, kind: str = "shared_mlp"):
    target = nn.ModuleDict({"a": nn.ModuleDict({"b-c": nn.Linear(d_in, 3)})})
    state = random_runs.random_state(target, {"a.b-c": c}, hidden, seed, kind)
    layer = DecomposedLayer("a.b-c", c, target["a"]["b-c"], d_in, 3)
    return state, layer, Checkpoint(Path("model_1.pth"), state)


def test_every_kind_is_tried():
    assert set(CI_FUNCTIONS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(
    d_in=st.integers(1, 9),
    c=st.integers(1, 7),
    hidden=st.lists(st.integers(1, 8), max_size=3),
    seed=st.integers(0, 2**31),
    at_once=st.sampled_from([1, 20, 100, 2**25]),
)
def test_ci_functions_are_the_formulas(
    kind: str, d_in: int, c: int, hidden: list[int], seed: int, at_once: int
):
    state, layer, checkpoint = _opened(d_in, c, hidden, seed, kind)
    raw = open_ci_function(kind, layer, hidden, checkpoint, CPU)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((2, 3, d_in), generator=generator)
    inner = x @ state["_components.a-b-c.V"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel_mlp, "_VALUES_AT_ONCE", at_once)
        found = raw(x, inner)
    expected = random_runs.raw_ci(state, layer.path, x.double().numpy(), kind)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hidden", [[], [5], [4, 3]])
def test_an_embedding_has_ci_functions_of_its_tokens(hidden: list[int]):
    target = nn.ModuleDict({"wte": nn.Embedding(11, 4)})
    state = random_runs.random_state(target, {"wte": 6}, hidden, kind="mlp")
    layer = DecomposedLayer("wte", 6, target["wte"], 11, 4)
    raw = open_ci_function("mlp", layer, hidden, Checkpoint(Path("x"), state), CPU)
    tokens = torch.tensor([[3, 0, 10], [10, 3, 3]])
    expected = random_runs.raw_ci(state, "wte", tokens.numpy(), "mlp")
    found = raw(tokens, state["_components.wte.V"][tokens])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["vector_mlp", "shared_mlp"])
def test_an_embedding_allows_mlp_only(kind: str):
    target = nn.ModuleDict({"wte": nn.Embedding(11, 4)})
    state = random_runs.random_state(target, {"wte": 6}, [5], kind=kind)
    layer = DecomposedLayer("wte", 6, target["wte"], 11, 4)
    with pytest.raises(HarvestError, match=f"'{kind}' .* wte is an embedding; .* only 'mlp'"):
        open_ci_function(kind, layer, [5], Checkpoint(Path("x"), state), CPU)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_taken_as_float32(kind: str):
    state, layer, _ = _opened(4, 3, [5], kind=kind)
    halves = {key: value.bfloat16() for key, value in state.items()}
    raw = open_ci_function(kind, layer, [5], Checkpoint(Path("x"), halves), CPU)
    assert raw(torch.ones(1, 1, 4), torch.ones(1, 1, 3)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_raw_values_are_not_rounded_under_autocast(kind: str, dtype: torch.dtype):
    state, layer, checkpoint = _opened(7, 5, [6], kind=kind)
    raw = open_ci_function(kind, layer, [6], checkpoint, CPU)
    x = torch.randn((4, 9, 7), generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = raw(x, x @ state["_components.a-b-c.V"])
    assert found.dtype == torch.float32
    assert not torch.equal(found, found.bfloat16().float())


def test_an_unknown_kind_is_reported_with_those_known():
    _, layer, checkpoint = _opened(4, 3, [])
    with pytest.raises(HarvestError, match="ci_fn_type 'attention' is unknown") as caught:
        open_ci_function("attention", layer, [], checkpoint, CPU)
    assert all(kind in str(caught.value) for kind in CI_FUNCTIONS)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ([], r"has _ci_fns\.a-b-c\.layers\.2\.W, which its config does not ask for"),
        ([5, 3], r"lacks _ci_fns\.a-b-c\.layers\.4\.W"),
        ([6], r"_ci_fns\.a-b-c\.layers\.0\.W has the shape \[4, 5\], not \[4, 6\]"),
    ],
)
def test_hidden_dims_must_agree_with_the_checkpoint(said: list[int], sentence: str):
    _, layer, checkpoint = _opened(4, 3, [5])
    with pytest.raises(HarvestError, match=sentence):
        open_ci_function("shared_mlp", layer, said, checkpoint, CPU)


def test_a_bias_of_another_width_is_reported():
    state, layer, _ = _opened(4, 3, [])
    state["_ci_fns.a-b-c.layers.0.b"] = torch.ones(1)
    with pytest.raises(HarvestError, match=r"layers\.0\.b has the shape \[1\], not \[3\]"):
        open_ci_function("shared_mlp", layer, [], Checkpoint(Path("x"), state), CPU)


@pytest.mark.parametrize("kind", ["mlp", "vector_mlp"])
def test_another_kind_than_the_checkpoints_is_reported(kind: str):
    state, layer, _ = _opened(4, 3, [5])
    with pytest.raises(HarvestError, match=r"layers\.0\.W has the shape \[4, 5\], not \[3, "):
        open_ci_function(kind, layer, [5], Checkpoint(Path("x"), state), CPU)
