"""Global CI functions from their formulas, by loops over positions and numbers, in float64.

Inputs are lists of rows; a row is a list of positions; a position maps a layer's path to its input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

EPSILON = 1.1920929e-07
Vector = list[float]
Row = list[dict[str, Vector]]


class Weights:
    """The weights of a CI function as nested lists."""

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        prefix = "ci_fn._global_ci_fn."
        self.values = {
            key.removeprefix(prefix): value.double().tolist()
            for key, value in state.items()
            if key.startswith(prefix)
        }

    def linear(self, name: str, x: Vector) -> Vector:
        w, b = self.values[f"{name}.W"], self.values[f"{name}.b"]
        return [sum(x[i] * w[i][j] for i in range(len(x))) + b[j] for j in range(len(b))]

    def mlp(self, prefix: str, x: Vector) -> Vector:
        n = 0
        while f"{prefix}{n}.W" in self.values:
            if n:
                x = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x]
            x = self.linear(f"{prefix}{n}", x)
            n += 2
        return x

    def project(self, name: str, x: Vector) -> Vector:
        return [sum(w * v for w, v in zip(row, x, strict=True)) for row in self.values[name]]


def rms(x: Vector, weight: Sequence[float] | None = None) -> Vector:
    root = math.sqrt(sum(v * v for v in x) / len(x) + EPSILON)
    return [v / root * w for v, w in zip(x, weight or [1.0] * len(x), strict=True)]


def attention(
    weights: Weights, prefix: str, rows: list[Vector], n_heads: int, base: float
) -> list[Vector]:
    width = len(rows[0])
    size = width // n_heads
    q, k, v = ([weights.project(f"{prefix}{name}_proj.weight", x) for x in rows] for name in "qkv")
    mixed = [[0.0] * width for _ in rows]
    for head in range(n_heads):
        first = head * size
        for at in range(len(rows)):
            query = turned(q[at][first : first + size], at, base)
            scores = []
            for other in range(len(rows)):
                key = turned(k[other][first : first + size], other, base)
                dot = sum(a * b for a, b in zip(query, key, strict=True))
                scores.append(dot / math.sqrt(size))
            powers = [math.exp(score - max(scores)) for score in scores]
            for other, power in enumerate(powers):
                for i in range(size):
                    mixed[at][first + i] += power / sum(powers) * v[other][first + i]
    return [weights.project(f"{prefix}out_proj.weight", x) for x in mixed]


def turned(x: Vector, position: int, base: float) -> Vector:
    half = len(x) // 2
    out = [0.0] * len(x)
    for i in range(half):
        angle = position * base ** (-2 * i / len(x))
        out[i] = x[i] * math.cos(angle) - x[half + i] * math.sin(angle)
        out[half + i] = x[half + i] * math.cos(angle) + x[i] * math.sin(angle)
    return out


def added(x: Vector, y: Vector) -> Vector:
    return [a + b for a, b in zip(x, y, strict=True)]


def shared_mlp(weights: Weights, row: Row, sizes: Mapping[str, int]) -> list[dict[str, Vector]]:
    order = sorted(sizes)
    return [
        _cut(weights.mlp("layers.", [v for layer in order for v in at[layer]]), order, sizes)
        for at in row
    ]


def transformer(
    weights: Weights, row: Row, sizes: Mapping[str, int], config: Mapping[str, Any]
) -> list[dict[str, Vector]]:
    order = sorted(sizes)
    attn = config["attn_config"]
    x = [
        weights.linear("_input_projector", [v for layer in order for v in rms(at[layer])])
        for at in row
    ]
    for n in range(config["n_blocks"]):
        mixed = attention(
            weights, f"_blocks.{n}.attn.", [rms(v) for v in x], attn["n_heads"], attn["rope_base"]
        )
        x = [added(v, m) for v, m in zip(x, mixed, strict=True)]
        x = [added(v, weights.mlp(f"_blocks.{n}.mlp.", rms(v))) for v in x]
    return [_cut(weights.linear("_output_head", v), order, sizes) for v in x]


def reverse_residual(
    weights: Weights,
    row: Row,
    sizes: Mapping[str, int],
    groups: Mapping[str, Sequence[str]],
    config: Mapping[str, Any],
    *,
    older: bool,
) -> list[dict[str, Vector]]:
    """`groups`: the layers of each, in flat order; `older`: readers come before transitions."""
    r = [[0.0] * config["d_resid_ci_fn"] for _ in row]
    answers: list[dict[str, Vector]] = [{} for _ in row]
    for number, (name, members) in enumerate(groups.items()):
        key = name.replace(".", "-")
        for at, x in enumerate(row):
            given = [v for layer in members for v in x[layer]]
            r[at] = added(r[at], weights.linear(f"_inp_projectors.{key}", given))
        before = r
        if number < len(groups) - 1:
            r = _passed_on(weights, key, r, config["transition_attn_config"])
        for at, x in enumerate(before if older else r):
            normed = rms(x, weights.values[f"_reader_norms.{key}.weight"])
            answers[at].update(_cut(weights.mlp(f"_readers.{key}.", normed), members, sizes))
    return answers


def _passed_on(
    weights: Weights, key: str, r: list[Vector], attn: Mapping[str, Any] | None
) -> list[Vector]:
    if attn is not None:
        norm = weights.values[f"_attn_norms.{key}.weight"]
        normed = [rms(x, norm) for x in r]
        prefix = f"_attn_transitions.{key}."
        mixed = attention(weights, prefix, normed, attn["n_heads"], attn["rope_base"])
        r = [added(x, m) for x, m in zip(r, mixed, strict=True)]
    norm = weights.values[f"_transition_norms.{key}.weight"]
    one_map = f"_transitions.{key}.W" in weights.values
    step = [
        weights.linear(f"_transitions.{key}", rms(x, norm))
        if one_map
        else weights.mlp(f"_transitions.{key}.", rms(x, norm))
        for x in r
    ]
    return [added(x, s) for x, s in zip(r, step, strict=True)]


def _cut(raw: Vector, order: Sequence[str], sizes: Mapping[str, int]) -> dict[str, Vector]:
    parts, first = {}, 0
    for layer in order:
        parts[layer] = raw[first : first + sizes[layer]]
        first += sizes[layer]
    assert first == len(raw)
    return parts
