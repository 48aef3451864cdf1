"""LlamaSimple: a small Llama with the gated MLP of the large ones."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F  # noqa: N812

from harvest_assets.decompositions.spd.targets.llama_blocks import MOST, LlamaConfig, LlamaLM
from harvest_assets.decompositions.spd.targets.pretrain_config import read_model_config
from harvest_assets.decompositions.spd.targets.weightless import build_weightless


class LlamaSimpleConfig(LlamaConfig):
    """`model_config.yaml` of the family."""

    n_intermediate: int = Field(2048, gt=0, le=MOST)


class GatedMLP(nn.Module):
    """`down_proj(silu(gate_proj(x)) * up_proj(x))`."""

    def __init__(self, config: LlamaSimpleConfig) -> None:
        super().__init__()
        width, inner, bias = config.n_embd, config.n_intermediate, config.mlp_bias
        self.gate_proj = nn.Linear(width, inner, bias=bias)
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, S, n_embd] -> [B, S, n_embd]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class LlamaSimple(LlamaLM):
    """The language model."""

    def __init__(self, config: LlamaSimpleConfig) -> None:
        super().__init__(config, lambda: GatedMLP(config))


def build_llama_simple(class_path: str, source: str) -> nn.Module:
    """Build the model from the `model_config.yaml` of its training run, without its weights.

    Args:
        class_path: of `LlamaSimple`.
        source: `<run>/checkpoints/model_step_<n>.pt`, or a `wandb:` name.

    Raises:
        HarvestError: the config is not there or wrong.
    """
    config = read_model_config(class_path, source, LlamaSimpleConfig)
    return build_weightless(lambda: LlamaSimple(config), buffer_bytes=config.table_bytes)
