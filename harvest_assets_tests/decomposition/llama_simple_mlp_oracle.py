"""LlamaSimpleMLP in float64, head by head and position by position, from its description."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from harvest_assets_tests.decomposition.random_runs import float64


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the weights; `config` holds every key of the family."""
    width, inner = config["n_embd"], config["n_intermediate"]
    narrow = width // config["n_head"] * config["n_key_value_heads"]
    attn = {"c_attn": (3 * width, width), "o_proj": (width, width)}
    if config["use_grouped_query_attention"]:
        attn = {
            "q_proj": (width, width),
            "k_proj": (narrow, width),
            "v_proj": (narrow, width),
            "o_proj": (width, width),
        }
    mlp = {"c_fc": (inner, width), "down_proj": (width, inner)}
    matrices = [
        *((f"attn.{name}", shape, config["attn_bias"]) for name, shape in attn.items()),
        *((f"mlp.{name}", shape, config["mlp_bias"]) for name, shape in mlp.items()),
    ]
    block = {"rms_1.weight": (width,), "rms_2.weight": (width,)}
    for name, shape, has_bias in matrices:
        block[f"{name}.weight"] = shape
        if has_bias:
            block[f"{name}.bias"] = shape[:1]
    table = (config["vocab_size"], width)
    return {
        "wte.weight": table,
        "lm_head.weight": table,
        "ln_f.weight": (width,),
        **{f"h.{i}.{k}": shape for i in range(config["n_layer"]) for k, shape in block.items()},
    }


def logits(
    config: Mapping[str, Any], state: Mapping[str, torch.Tensor], tokens: list[int]
) -> np.ndarray:
    """Logits [S, vocab] for one row of tokens; `config` holds every key of the family."""
    weights = {name: float64(value) for name, value in state.items()}
    x = weights["wte.weight"][tokens]
    for i in range(config["n_layer"]):
        block = {
            name.removeprefix(f"h.{i}."): value
            for name, value in weights.items()
            if name.startswith(f"h.{i}.")
        }
        x = x + _attention(config, block, _norm(config, x, block["rms_1.weight"]))
        x = x + _mlp(block, _norm(config, x, block["rms_2.weight"]))
    return _norm(config, x, weights["ln_f.weight"]) @ weights["lm_head.weight"].T


def _norm(config: Mapping[str, Any], x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * weight


def _linear(block: Mapping[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ block[f"{name}.weight"].T + block.get(f"{name}.bias", 0.0)


def _mlp(block: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    x = _linear(block, "mlp.c_fc", x)
    x = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return _linear(block, "mlp.down_proj", x)


def _rotated(config: Mapping[str, Any], head: np.ndarray, position: int) -> np.ndarray:
    half = len(head) // 2
    turned = head.copy()
    for i in range(half):
        angle = min(position, config["n_ctx"] - 1) / config["rotary_base"] ** (i / half)
        a, b = (2 * i, 2 * i + 1) if config["rotary_adjacent_pairs"] else (i, i + half)
        turned[a] = head[a] * math.cos(angle) - head[b] * math.sin(angle)
        turned[b] = head[b] * math.cos(angle) + head[a] * math.sin(angle)
    return turned


def _attention(
    config: Mapping[str, Any], block: Mapping[str, np.ndarray], x: np.ndarray
) -> np.ndarray:
    n_head, width = config["n_head"], config["n_embd"]
    d = width // n_head
    if config["use_grouped_query_attention"]:
        q, k, v = (_linear(block, f"attn.{name}_proj", x) for name in "qkv")
        queries_per_key = n_head // config["n_key_value_heads"]
    else:
        stacked = _linear(block, "attn.c_attn", x)
        q, k, v = stacked[:, :width], stacked[:, width : 2 * width], stacked[:, 2 * width :]
        queries_per_key = 1
    mixed = np.zeros_like(q)
    for head in range(n_head):
        own = slice(head * d, (head + 1) * d)
        shared = slice(head // queries_per_key * d, (head // queries_per_key + 1) * d)
        keys = np.stack([_rotated(config, k[s, shared], s) for s in range(len(x))])
        for s in range(len(x)):
            scores = keys[: s + 1] @ _rotated(config, q[s, own], s) / math.sqrt(d)
            shares = np.exp(scores - scores.max())
            mixed[s, own] = shares / shares.sum() @ v[: s + 1, shared]
    return _linear(block, "attn.o_proj", mixed)
