"""Random decompositions of small targets, and what they must return, from the formulas alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.decompositions.spd.run_config import RunConfig
from harvest_assets.decompositions.spd.target_weights import load_target_weights

ERF = np.vectorize(math.erf)


def random_state(
    target: nn.Module,
    layers: Mapping[str, int],
    hidden: Sequence[int],
    seed: int = 0,
    kind: str = "shared_mlp",
) -> dict[str, torch.Tensor]:
    """The state dict of a run that decomposed these layers of a target into C components each."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    state = {f"target_model.{name}": value for name, value in target.state_dict().items()}
    for layer, c in layers.items():
        d_in, d_out = _widths(target, layer)
        key = layer.replace(".", "-")
        # Of an embedding's V one row is taken, of another layer's a sum over all of them.
        is_embedding = type(_module(target, layer)).__name__ == "Embedding"
        state[f"_components.{key}.V"] = normal(d_in, c) / (1 if is_embedding else d_in**0.5)
        state[f"_components.{key}.U"] = normal(c, d_out) / d_out**0.5
        widths = [d_in, *hidden, c] if kind == "shared_mlp" else [d_in, *hidden, 1]
        if kind == "mlp":
            widths[0] = 1
        each = [] if kind == "shared_mlp" else [c]
        for n in range(len(widths) - 1):
            state[f"_ci_fns.{key}.layers.{2 * n}.W"] = (
                normal(*each, widths[n], widths[n + 1]) / widths[n] ** 0.5
            )
            state[f"_ci_fns.{key}.layers.{2 * n}.b"] = normal(*each, widths[n + 1])
    return state


def _module(target: nn.Module, layer: str) -> nn.Module:
    return target.get_submodule(layer.removesuffix(".pre_identity"))


def _widths(target: nn.Module, layer: str) -> tuple[int, int]:
    module = _module(target, layer)
    shape = tuple(module.weight.shape)
    kept = type(module).__name__ in ("Conv1D", "Embedding")
    d_in, d_out = shape if kept else shape[::-1]
    return (d_in, d_in) if layer.endswith(".pre_identity") else (d_in, d_out)


def save_state(state: Mapping[str, torch.Tensor], folder: Path) -> Path:
    path = folder / "model_5.pth"
    torch.save(dict(state), path)
    return path


def run_config(modules: Sequence[tuple[str, int]], **changes: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "module_info": [{"module_pattern": p, "C": c} for p, c in modules],
            "ci_fn_type": "shared_mlp",
            "ci_fn_hidden_dims": [],
            "pretrained_model_class": "transformers.LlamaForCausalLM",
            "pretrained_model_output_attr": "logits",
            "tokenizer_name": "none",
            "task_config": {"task_name": "lm"},
            **changes,
        }
    )


def float64(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float64).numpy()


def raw_ci(
    state: Mapping[str, torch.Tensor],
    layer: str,
    layer_input: np.ndarray,
    kind: str = "shared_mlp",
) -> np.ndarray:
    """What the CI function of a layer returns, [..., d_in] -> [..., C], in float64.

    The input of an embedding is tokens, [...] -> [..., C].
    """
    prefix = f"_ci_fns.{layer.replace('.', '-')}.layers"
    maps = []
    while f"{prefix}.{2 * len(maps)}.W" in state:
        name = f"{prefix}.{2 * len(maps)}"
        maps.append((float64(state[f"{name}.W"]), float64(state[f"{name}.b"])))
    if kind == "shared_mlp":
        return _mlp(maps, layer_input)
    inner = inner_acts(state, layer, layer_input)
    each = []
    for c in range(inner.shape[-1]):
        own = [(w[c], b[c]) for w, b in maps]
        each.append(_mlp(own, inner[..., c : c + 1] if kind == "mlp" else layer_input)[..., 0])
    return np.stack(each, axis=-1)


def _mlp(maps: Sequence[tuple[np.ndarray, np.ndarray]], x: np.ndarray) -> np.ndarray:
    for n, (w, b) in enumerate(maps):
        if n:
            x = x * 0.5 * (1 + ERF(x / math.sqrt(2)))
        x = x @ w + b
    return x


def inner_acts(
    state: Mapping[str, torch.Tensor], layer: str, layer_input: np.ndarray
) -> np.ndarray:
    """Inner activations of a layer, [..., d_in] or tokens [...] -> [..., C], in float64."""
    v = float64(state[f"_components.{layer.replace('.', '-')}.V"])
    return v[layer_input] if layer_input.dtype.kind == "i" else layer_input @ v


def component_acts(
    state: Mapping[str, torch.Tensor], layer: str, layer_input: np.ndarray
) -> np.ndarray:
    """Component activations of a layer, [..., d_in] or tokens [...] -> [..., C], in float64."""
    u = float64(state[f"_components.{layer.replace('.', '-')}.U"])
    return inner_acts(state, layer, layer_input) * np.sqrt((u**2).sum(axis=1))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def lower_leaky(sigmoid_type: str, x: np.ndarray) -> np.ndarray:
    """Causal importance from the raw output of a CI function."""

    def logistic(y: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-y))

    if sigmoid_type == "normal":
        return logistic(x)
    if sigmoid_type == "swish_hard":
        return 1 - x + (x - 1) * logistic(10 * (1 - x)) + x * logistic(10 * x)
    if sigmoid_type == "upper_leaky_hard":
        return np.where(x > 1, 1 + 0.01 * (x - 1), x.clip(0, 1))
    return x.clip(0, 1)


def load_target(target: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    """A target with these weights."""
    named = {f"target_model.{name}": value for name, value in state.items()}
    load_target_weights(target, Checkpoint(Path("model_1.pth"), named), torch.device("cpu"))
    return target
