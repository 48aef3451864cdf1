"""Encoders of dictionaries in float64 NumPy, row by row; imports nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Weights = Mapping[str, np.ndarray]


def keep_largest(values: np.ndarray, k: int) -> np.ndarray:
    """The k largest of a vector, the first among equals; zero elsewhere."""
    kept = np.zeros_like(values)
    for i in sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]:
        kept[i] = values[i]
    return kept


def sae_lens_row(config: Mapping[str, Any], w: Weights, x: np.ndarray) -> np.ndarray:
    """Activations [S, n] of one row [S, d_in]: ReLU, TopK, and BatchTopK without a threshold."""
    if config["apply_b_dec_to_input"]:
        x = x - w["b_dec"]
    pre = np.maximum(x @ w["W_enc"] + w["b_enc"], 0)
    if config["architecture"] == "topk":
        return np.stack([keep_largest(position, config["k"]) for position in pre])
    if config["architecture"] == "batchtopk":
        return keep_largest(pre.ravel(), int(config["k"] * len(pre))).reshape(pre.shape)
    return pre
