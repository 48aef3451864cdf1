"""Random small configs of each global CI function against loops over the formulas."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.decompositions.spd.ci_config import GlobalCI, current_ci_settings
from harvest_assets.decompositions.spd.ci_functions import (
    GLOBAL_CI_FUNCTIONS,
    attention,
    open_global_ci_function,
)
from harvest_assets.decompositions.spd.decomposed_layers import DecomposedLayer
from harvest_assets.decompositions.spd.old_spellings import current_state
from harvest_assets.errors import HarvestError
from harvest_assets_tests.decompositions.spd import global_ci_oracle as oracle

# In flat order, which is not the string order.
WIDTHS = {"h.2.up": 3, "h.10.up": 5, "h.2.down": 4, "wte": 11}
SIZES = {"h.2.up": 2, "h.10.up": 3, "h.2.down": 1, "wte": 4}
INPUTS = {**WIDTHS, "wte": SIZES["wte"]}  # of an embedding: V[token]


def layers() -> list[DecomposedLayer]:
    modules = {
        name: nn.Embedding(width, 6) if name == "wte" else nn.Linear(width, 6)
        for name, width in WIDTHS.items()
    }
    return [DecomposedLayer(name, SIZES[name], modules[name], WIDTHS[name], 6) for name in WIDTHS]


class State(dict[str, torch.Tensor]):
    """Random weights under the keys of checkpoints."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def put(self, name: str, *shape: int) -> None:
        self[f"ci_fn._global_ci_fn.{name}"] = torch.randn(shape, generator=self.generator) / max(
            1, shape[0] ** 0.5
        )

    def linear(self, name: str, d_in: int, d_out: int) -> None:
        self.put(f"{name}.W", d_in, d_out)
        self.put(f"{name}.b", d_out)

    def mlp(self, prefix: str, widths: Sequence[int]) -> None:
        for n in range(len(widths) - 1):
            self.linear(f"{prefix}{2 * n}", widths[n], widths[n + 1])

    def attention(self, prefix: str, width: int, n_heads: int, base: float) -> None:
        for name in ("q", "k", "v", "out"):
            self.put(f"{prefix}{name}_proj.weight", width, width)
        size = width // n_heads
        self[f"ci_fn._global_ci_fn.{prefix}rope.inv_freq"] = torch.tensor(
            [base ** (-2 * i / size) for i in range(size // 2)]
        )


def raw_ci(ci_config: Mapping[str, Any], state: State, row: oracle.Row) -> list[dict[str, Any]]:
    """What our function answers for a row of inputs, by position and layer."""
    path = Path("model_1.pth")
    settings = {"ci_config": {"mode": "global", **ci_config}}
    (config,) = current_ci_settings(path, settings, recent=False).values()
    checkpoint = Checkpoint(path, current_state(path, state))
    function = open_global_ci_function(
        GlobalCI.model_validate(config), layers(), checkpoint, torch.device("cpu")
    )
    given_inputs = torch.empty(2, len(row), sum(INPUTS.values()))
    for layer, columns in function.inputs.items():
        given_inputs[0, :, columns] = torch.tensor([at[layer] for at in row])
    given_inputs[1] = 7.0  # another row, of no influence
    raw = function.raw_ci(given_inputs)[0]
    return [
        {layer: raw[at, columns].numpy() for layer, columns in function.outputs.items()}
        for at in range(len(row))
    ]


def random_row(generator: torch.Generator, length: int) -> oracle.Row:
    return [
        {layer: torch.randn(width, generator=generator).tolist() for layer, width in INPUTS.items()}
        for _ in range(length)
    ]


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, oracle.Vector]]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys() == SIZES.keys()
        for layer, values in theirs.items():
            np.testing.assert_allclose(mine[layer], values, rtol=2e-4, atol=2e-5)


def test_every_kind_is_tried():
    kinds = {"global_shared_mlp", "global_shared_transformer", "global_reverse_residual"}
    assert set(GLOBAL_CI_FUNCTIONS) == kinds


@settings(max_examples=30, deadline=None)
@given(hidden=st.lists(st.integers(1, 6), max_size=3), seed=st.integers(0, 2**31))
def test_shared_mlp(hidden: list[int], seed: int):
    state = State(seed)
    state.mlp("layers.", [sum(INPUTS.values()), *hidden, sum(SIZES.values())])
    row = random_row(state.generator, 3)
    found = raw_ci({"fn_type": "global_shared_mlp", "hidden_dims": hidden}, state, row)
    assert_same(found, oracle.shared_mlp(oracle.Weights(state), row, SIZES))


@settings(max_examples=30, deadline=None)
@given(
    n_heads=st.integers(1, 3),
    half=st.integers(1, 3),
    n_blocks=st.integers(0, 3),
    hidden=st.one_of(st.none(), st.lists(st.integers(1, 6), max_size=2)),
    base=st.sampled_from([10000.0, 50.0]),
    length=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
def test_shared_transformer(
    n_heads: int,
    half: int,
    n_blocks: int,
    hidden: list[int] | None,
    base: float,
    length: int,
    seed: int,
):
    width = 2 * half * n_heads
    config = {
        "d_model": width,
        "n_blocks": n_blocks,
        "mlp_hidden_dim": hidden,
        "attn_config": {"n_heads": n_heads, "max_len": 6, "rope_base": base},
    }
    state = State(seed)
    state.linear("_input_projector", sum(INPUTS.values()), width)
    state.linear("_output_head", width, sum(SIZES.values()))
    for n in range(n_blocks):
        state.attention(f"_blocks.{n}.attn.", width, n_heads, base)
        inner = [4 * width] if hidden is None else hidden
        state.mlp(f"_blocks.{n}.mlp.", [width, *inner, width])
    row = random_row(state.generator, length)
    found = raw_ci(
        {"fn_type": "global_shared_transformer", "simple_transformer_ci_cfg": config}, state, row
    )
    assert_same(found, oracle.transformer(oracle.Weights(state), row, SIZES, config))


# Pattern by pattern: `down` comes before `up`, though not in flat order.
GROUPS = {"first.one": ["*.down", "h.2.u*"], "embedding": ["wte"], "last": ["h.10.up"]}
MEMBERS = {"first.one": ["h.2.down", "h.2.up"], "embedding": ["wte"], "last": ["h.10.up"]}


def residual_run(
    seed: int,
    *,
    n_heads: int | None,
    transition: int | None,
    readers: list[int],
    width: int,
    older: bool,
) -> tuple[dict[str, Any], State]:
    attn = None if n_heads is None else {"n_heads": n_heads, "max_len": 9, "rope_base": 100.0}
    config: dict[str, Any] = {
        "fn_type": "global_reverse_residual",
        "d_resid_ci_fn": width,
        "reader_hidden_dims": readers,
        "block_groups": [{"name": name, "patterns": p} for name, p in GROUPS.items()],
        "transition_attn_config": attn,
    }
    if not older:
        config["transition_hidden_dim"] = transition
    state = State(seed)
    for name, members in MEMBERS.items():
        key = name.replace(".", "-")
        state.linear(f"_inp_projectors.{key}", sum(INPUTS[m] for m in members), width)
        state.mlp(f"_readers.{key}.", [width, *readers, sum(SIZES[m] for m in members)])
        state.put(f"_reader_norms.{key}.weight", width)
        if name == "last":
            continue
        state.put(f"_transition_norms.{key}.weight", width)
        if older or transition is None:
            state.linear(f"_transitions.{key}", width, width)
        else:
            state.mlp(f"_transitions.{key}.", [width, transition, width])
        if n_heads is not None:
            state.put(f"_attn_norms.{key}.weight", width)
            state.attention(f"_attn_transitions.{key}.", width, n_heads, 100.0)
    return config, state


@settings(max_examples=40, deadline=None)
@given(
    n_heads=st.one_of(st.none(), st.integers(1, 2)),
    half=st.integers(1, 3),
    transition=st.one_of(st.none(), st.integers(1, 5)),
    readers=st.lists(st.integers(1, 5), max_size=2),
    older=st.booleans(),
    length=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
def test_reverse_residual(
    n_heads: int | None,
    half: int,
    transition: int | None,
    readers: list[int],
    older: bool,
    length: int,
    seed: int,
):
    width = 2 * half * (n_heads or 1)
    config, state = residual_run(
        seed, n_heads=n_heads, transition=transition, readers=readers, width=width, older=older
    )
    row = random_row(state.generator, length)
    expected = oracle.reverse_residual(
        oracle.Weights(state), row, SIZES, MEMBERS, config, older=older
    )
    assert_same(raw_ci(config, state, row), expected)


def test_queries_and_keys_are_rotated_in_float32_under_autocast(monkeypatch: pytest.MonkeyPatch):
    seen: list[torch.Tensor] = []

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.extend((q, k))
        return v

    monkeypatch.setattr(attention, "scaled_dot_product_attention", attend)
    config, state = residual_run(0, n_heads=2, transition=None, readers=[], width=8, older=False)
    with torch.autocast("cpu", torch.bfloat16):
        raw = raw_ci(config, state, random_row(state.generator, 5))
    assert len(seen) == 4
    assert all(not torch.equal(it, it.bfloat16().float()) for it in seen)
    assert {values.dtype for at in raw for values in at.values()} == {np.dtype(np.float32)}


def small_residual(**changes: Any) -> tuple[dict[str, Any], State]:
    config, state = residual_run(0, n_heads=None, transition=3, readers=[], width=4, older=False)
    return config | changes, state


@pytest.mark.parametrize(
    ("groups", "name"),
    [
        ({"a": ["h.*"]}, "wte"),
        ({"a": ["h.*"], "b": ["wte", "h.2.up"]}, "h.2.up"),
        ({"a": ["h.*", "*.up"], "b": ["wte"]}, "h.2.up"),
        ({"a": ["h.*", "z.*"], "b": ["wte"]}, "z.*"),
        ({"a.b": ["h.*"], "a-b": ["wte"]}, "a-b"),
    ],
)
def test_each_layer_is_in_one_group(groups: dict[str, list[str]], name: str):
    block_groups = [{"name": key, "patterns": patterns} for key, patterns in groups.items()]
    config, state = small_residual(block_groups=block_groups)
    with pytest.raises(HarvestError, match=re.escape(name)):
        raw_ci(config, state, [])


def test_readers_without_norms_are_refused():
    config, state = small_residual()
    for key in [key for key in state if "_reader_norms" in key]:
        del state[key]
    with pytest.raises(HarvestError, match="_reader_norms"):
        raw_ci(config, state, [])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("global_reverse_residual", "d_resid_ci_fn"),
        ("global_reverse_residual", "block_groups"),
        ("global_reverse_residual", "reader_hidden_dims"),
        ("global_shared_mlp", "hidden_dims"),
        ("global_shared_transformer", "simple_transformer_ci_cfg"),
    ],
)
def test_what_a_kind_needs_is_named(kind: str, name: str):
    config, state = small_residual(**{name: None})
    with pytest.raises(HarvestError, match=f"{kind}.*{name}"):
        raw_ci({**config, "fn_type": kind}, state, [])


def test_no_groups_are_refused_where_they_are_used():
    config, state = small_residual(block_groups=[])
    with pytest.raises(HarvestError, match=r"block_groups: h\.2\.up"):
        raw_ci(config, state, [])


def test_weights_that_the_config_does_not_ask_for_are_named():
    config, state = small_residual()
    state.put("_readers.last.2.W", 4, 4)
    with pytest.raises(HarvestError, match=r"_readers\.last\.2\.W"):
        raw_ci(config, state, [])


def test_an_unknown_kind_is_named():
    with pytest.raises(HarvestError, match="global_wavelets"):
        raw_ci({"fn_type": "global_wavelets"}, State(0), [])
