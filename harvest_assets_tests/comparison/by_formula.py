"""Where the components of the tiny run fire, and which fire together, in NumPy and loops."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from harvest_assets_tests.decompositions.dictionaries.tiny_set import TARGET
from harvest_assets_tests.decompositions.spd.target_oracles import llama_logits

LAYERS = {"h.0.mlp.up_proj": 12, "h.1.mlp.up_proj": 12, "h.1.attn.q_proj": 9}
_THRESHOLD = 1e-6


def spd_fires(run: Path, tokens: np.ndarray) -> np.ndarray:
    """Bool [rows, S, 33]: a shared MLP of each layer's input gives a logit for each component."""
    state = {
        name: value.double().numpy()
        for name, value in torch.load(run / "model_100.pth", weights_only=True).items()
    }
    target = {
        name.removeprefix("target_model."): value
        for name, value in state.items()
        if name.startswith("target_model.")
    }
    fires = []
    for row in tokens:
        inputs: dict[str, np.ndarray] = {}
        llama_logits(TARGET, target, row, inputs)
        fires.append(
            np.concatenate([_logits(state, layer, inputs[layer]) for layer in LAYERS], axis=-1)
            > _THRESHOLD
        )
    return np.stack(fires)


def _logits(state: dict[str, np.ndarray], layer: str, x: np.ndarray) -> np.ndarray:
    w0, b0, w2, b2 = (
        state[f"_ci_fns.{layer.replace('.', '-')}.layers.{name}"]
        for name in ("0.W", "0.b", "2.W", "2.b")
    )
    hidden = x @ w0 + b0
    gelu = hidden / 2 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return gelu @ w2 + b2


def counts(a: np.ndarray, b: np.ndarray) -> tuple[list[int], list[int], list[list[int]]]:
    """Firings of each component, and of each pair: bool [rows, S, A] and [rows, S, B], by loops."""
    a, b = (it.reshape(-1, it.shape[-1]) for it in (a, b))
    n_a, n_b = [0] * a.shape[1], [0] * b.shape[1]
    n_ab = [[0] * len(n_b) for _ in n_a]
    for fires_a, fires_b in zip(a, b, strict=True):
        together = np.flatnonzero(fires_b).tolist()
        for j in together:
            n_b[j] += 1
        for i in np.flatnonzero(fires_a).tolist():
            n_a[i] += 1
            for j in together:
                n_ab[i][j] += 1
    return n_a, n_b, n_ab


def best(
    n_a: list[int], n_b: list[int], n_ab: list[list[int]], top: int
) -> dict[int, list[tuple[int, Fraction]]]:
    """For each component of A that fired, those of B with the highest Jaccard index."""
    found = {}
    for i, firings in enumerate(n_a):
        if firings:
            scores = [
                (Fraction(n_ab[i][j], firings + n_b[j] - n_ab[i][j]), -j)
                for j in range(len(n_b))
                if n_ab[i][j]
            ]
            found[i] = [(-j, score) for score, j in sorted(scores, reverse=True)[:top]]
    return found
