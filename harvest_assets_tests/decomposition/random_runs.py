"""Random decompositions of small targets, and what they must answer, from the formulas alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harvest_assets.decomposition.run_config import RunConfig

ERF = np.vectorize(math.erf)


def random_state(
    target: nn.Module, layers: Mapping[str, int], hidden: Sequence[int], seed: int = 0
) -> dict[str, torch.Tensor]:
    """The state dict of a run that decomposed these layers of a target, with `shared_mlp`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    state = {f"target_model.{name}": value for name, value in target.state_dict().items()}
    for layer, c in layers.items():
        module = target.get_submodule(layer)
        shape = tuple(module.weight.shape)
        d_in, d_out = shape if type(module).__name__ == "Conv1D" else shape[::-1]
        key = layer.replace(".", "-")
        state[f"_components.{key}.V"] = normal(d_in, c) / d_in**0.5
        state[f"_components.{key}.U"] = normal(c, d_out) / d_out**0.5
        widths = [d_in, *hidden, c]
        for n in range(len(widths) - 1):
            state[f"_ci_fns.{key}.layers.{2 * n}.W"] = (
                normal(widths[n], widths[n + 1]) / widths[n] ** 0.5
            )
            state[f"_ci_fns.{key}.layers.{2 * n}.b"] = normal(widths[n + 1])
    return state


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


def raw_ci(state: Mapping[str, torch.Tensor], layer: str, layer_input: np.ndarray) -> np.ndarray:
    """What the shared MLP of a layer answers, [..., d_in] -> [..., C], in float64."""
    prefix = f"_ci_fns.{layer.replace('.', '-')}.layers"
    x, n = layer_input, 0
    while f"{prefix}.{n}.W" in state:
        if n:
            x = x * 0.5 * (1 + ERF(x / math.sqrt(2)))
        x = x @ float64(state[f"{prefix}.{n}.W"]) + float64(state[f"{prefix}.{n}.b"])
        n += 2
    return x


def component_acts(
    state: Mapping[str, torch.Tensor], layer: str, layer_input: np.ndarray
) -> np.ndarray:
    """Component activations of a layer, [..., d_in] -> [..., C], in float64."""
    prefix = f"_components.{layer.replace('.', '-')}"
    norms = np.sqrt((float64(state[f"{prefix}.U"]) ** 2).sum(axis=1))
    return layer_input @ float64(state[f"{prefix}.V"]) * norms


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
