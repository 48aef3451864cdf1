"""The simple_stories_train targets in float64, head by head and position by position.

Written from their descriptions; imports nothing of ours. A config holds every key of its family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Config = Mapping[str, Any]
Weights = Mapping[str, np.ndarray]
Inputs = dict[str, np.ndarray]


def shapes(family: str, config: Config) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the weights of `GPT2Simple`, `LlamaSimple` or `LlamaSimpleMLP`."""
    width, table = config["n_embd"], (config["vocab_size"], config["n_embd"])
    norms = ("ln_1", "ln_2") if family == "GPT2Simple" else ("rms_1", "rms_2")
    found = {"wte.weight": table, "lm_head.weight": table}
    if family == "GPT2Simple":
        found["wpe.weight"] = (config["block_size"], width)
    for i in range(config["n_layer"]):
        for name, shape, has_bias in _matrices(family, config):
            found[f"h.{i}.{name}.weight"] = shape
            if has_bias:
                found[f"h.{i}.{name}.bias"] = shape[:1]
    for norm in [*(f"h.{i}.{norm}" for i in range(config["n_layer"]) for norm in norms), "ln_f"]:
        found[f"{norm}.weight"] = (width,)
        if family == "GPT2Simple":
            found[f"{norm}.bias"] = (width,)
    return found


def _matrices(family: str, config: Config) -> list[tuple[str, tuple[int, int], bool]]:
    width = config["n_embd"]
    narrow, inner, gated = width, 4 * width, family == "LlamaSimple"
    biases = {"attn": True, "mlp": True}
    parts = ["q_proj", "k_proj", "v_proj", "o_proj"]
    if family != "GPT2Simple":
        narrow = width // config["n_head"] * config["n_key_value_heads"]
        inner = config["n_intermediate"]
        biases = {"attn": config["attn_bias"], "mlp": config["mlp_bias"]}
        if not config["use_grouped_query_attention"]:
            parts = ["c_attn", "o_proj"]
    heights = {"c_attn": 3 * width, "k_proj": narrow, "v_proj": narrow}
    found = [(f"attn.{part}", (heights.get(part, width), width), biases["attn"]) for part in parts]
    ups = ["gate_proj", "up_proj"] if gated else ["c_fc"]
    found += [(f"mlp.{up}", (inner, width), biases["mlp"]) for up in ups]
    return [*found, ("mlp.down_proj", (width, inner), biases["mlp"])]


def llama_logits(
    config: Config, weights: Weights, tokens: Sequence[int], inputs: Inputs | None = None
) -> np.ndarray:
    """Logits [S, vocab] of a LlamaSimple or LlamaSimpleMLP for one row of tokens.

    `inputs` is filled with the input [S, d_in] of each matrix.
    """
    inputs = {} if inputs is None else inputs
    x = weights["wte.weight"][list(tokens)]
    for i in range(config["n_layer"]):
        x = x + _llama_attention(
            config, weights, f"h.{i}.attn", _rms(config, weights, f"h.{i}.rms_1", x), inputs
        )
        normed = _rms(config, weights, f"h.{i}.rms_2", x)
        mlp = _gated_mlp if f"h.{i}.mlp.gate_proj.weight" in weights else gelu_mlp
        x = x + mlp(weights, f"h.{i}.mlp", normed, inputs)
    return linear(weights, "lm_head", _rms(config, weights, "ln_f", x), inputs)


def gpt2_logits(
    config: Config,
    weights: Weights,
    tokens: Sequence[int],
    stds: Mapping[str, float] | None = None,
    inputs: Inputs | None = None,
) -> np.ndarray:
    """Logits [S, vocab] of a GPT2Simple for one row of tokens; `inputs` as of `llama_logits`."""
    inputs = {} if inputs is None else inputs
    x = weights["wte.weight"][list(tokens)] + weights["wpe.weight"][: len(tokens)]
    for i in range(config["n_layer"]):
        normed = _layer_norm(weights, f"h.{i}.ln_1", x, stds)
        q, k, v = (linear(weights, f"h.{i}.attn.{part}_proj", normed, inputs) for part in "qkv")
        mixed = attention(q, k, v, config["n_head"], config["n_head"])
        x = x + linear(weights, f"h.{i}.attn.o_proj", mixed, inputs)
        normed = _layer_norm(weights, f"h.{i}.ln_2", x, stds)
        x = x + gelu_mlp(weights, f"h.{i}.mlp", normed, inputs)
    return linear(weights, "lm_head", _layer_norm(weights, "ln_f", x, stds), inputs)


def linear(weights: Weights, name: str, x: np.ndarray, inputs: Inputs) -> np.ndarray:
    inputs[name] = x
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)


def gelu_mlp(weights: Weights, name: str, x: np.ndarray, inputs: Inputs) -> np.ndarray:
    x = linear(weights, f"{name}.c_fc", x, inputs)
    x = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return linear(weights, f"{name}.down_proj", x, inputs)


def _gated_mlp(weights: Weights, name: str, x: np.ndarray, inputs: Inputs) -> np.ndarray:
    gate = linear(weights, f"{name}.gate_proj", x, inputs)
    up = linear(weights, f"{name}.up_proj", x, inputs)
    return linear(weights, f"{name}.down_proj", gate / (1 + np.exp(-gate)) * up, inputs)


def _rms(config: Config, weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    square = (x**2).mean(-1, keepdims=True)
    return x / np.sqrt(square + config["rms_norm_eps"]) * weights[f"{name}.weight"]


def _layer_norm(
    weights: Weights, name: str, x: np.ndarray, stds: Mapping[str, float] | None
) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    std = stds[name] if stds else np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return centred / std * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _rotated(config: Config, head: np.ndarray, position: int) -> np.ndarray:
    half = len(head) // 2
    turned = head.copy()
    for i in range(half):
        angle = min(position, config["n_ctx"] - 1) / config["rotary_base"] ** (i / half)
        a, b = (2 * i, 2 * i + 1) if config["rotary_adjacent_pairs"] else (i, i + half)
        turned[a] = head[a] * math.cos(angle) - head[b] * math.sin(angle)
        turned[b] = head[b] * math.cos(angle) + head[a] * math.sin(angle)
    return turned


def _llama_attention(
    config: Config, weights: Weights, name: str, x: np.ndarray, inputs: Inputs
) -> np.ndarray:
    n_head, width = config["n_head"], config["n_embd"]
    n_key_value_heads = config["n_key_value_heads"]
    if config["use_grouped_query_attention"]:
        q, k, v = (linear(weights, f"{name}.{part}_proj", x, inputs) for part in "qkv")
    else:
        stacked = linear(weights, f"{name}.c_attn", x, inputs)
        q, k, v = stacked[:, :width], stacked[:, width : 2 * width], stacked[:, 2 * width :]
        n_key_value_heads = n_head
    d = width // n_head
    for projected in (q, k):
        for s in range(len(x)):
            for first in range(0, projected.shape[1], d):
                head = slice(first, first + d)
                projected[s, head] = _rotated(config, projected[s, head], s)
    mixed = attention(q, k, v, n_head, n_key_value_heads)
    return linear(weights, f"{name}.o_proj", mixed, inputs)


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, n_head: int, n_key_value_heads: int
) -> np.ndarray:
    """Causal softmax attention, [S, width] -> [S, width]."""
    d = q.shape[1] // n_head
    mixed = np.zeros_like(q)
    for head in range(n_head):
        own = slice(head * d, (head + 1) * d)
        shared_head = head // (n_head // n_key_value_heads)
        shared = slice(shared_head * d, (shared_head + 1) * d)
        for s in range(len(q)):
            scores = k[: s + 1, shared] @ q[s, own] / math.sqrt(d)
            shares = np.exp(scores - scores.max())
            mixed[s, own] = shares / shares.sum() @ v[: s + 1, shared]
    return mixed
