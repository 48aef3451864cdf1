"""GPT2Simple: a small GPT-2 with separate query, key and value matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import pydantic
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F  # noqa: N812

from harvest_assets.decompositions.spd.targets.gelu_mlp import GeluMLP
from harvest_assets.decompositions.spd.targets.layer_norm_stds import read_fixed_stds
from harvest_assets.decompositions.spd.targets.pretrain_config import read_model_config
from harvest_assets.decompositions.spd.targets.weightless import build_weightless
from harvest_assets.errors import HarvestError

_EPS = 1e-5
_MOST = 1 << 26  # of anything in a config


class GPT2SimpleConfig(pydantic.BaseModel):
    """`model_config.yaml` of the family; other keys are ignored."""

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)

    block_size: int = Field(1024, gt=0, le=_MOST)
    vocab_size: int = Field(50257, gt=0, le=_MOST)
    n_layer: int = Field(12, ge=0, le=_MOST)
    n_head: int = Field(12, gt=0, le=_MOST)
    n_embd: int = Field(768, gt=0, le=_MOST)

    @pydantic.model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        return self


class LayerNorm(nn.Module):
    """`(x - mean) / std * weight + bias`.

    The std is that of x (its biased variance plus 1e-5, rooted) unless a fixed one is given, to
    which nothing is added.

    Attributes:
        std: the fixed one, or None.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.std: float | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., width]."""
        if self.std is None:
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, _EPS)
        return (x - x.mean(-1, keepdim=True)) / self.std * self.weight + self.bias


class Attention(nn.Module):
    """Causal attention."""

    def __init__(self, config: GPT2SimpleConfig) -> None:
        super().__init__()
        width = config.n_embd
        self.n_head = config.n_head
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, S, n_embd] -> [B, S, n_embd]."""
        q, k, v = (
            project(x).unflatten(-1, (self.n_head, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A residual pre-norm block."""

    def __init__(self, config: GPT2SimpleConfig) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd)
        self.attn = Attention(config)
        self.ln_2 = LayerNorm(config.n_embd)
        self.mlp = GeluMLP(config.n_embd, 4 * config.n_embd, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, S, n_embd] -> [B, S, n_embd]."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


class GPT2Simple(nn.Module):
    """The language model; its input and output embeddings are one matrix."""

    def __init__(self, config: GPT2SimpleConfig) -> None:
        super().__init__()
        self.max_context_length = config.block_size
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Int [B, S] -> logits [B, S, vocab], and the loss, which is not asked for."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.wte(tokens) + self.wpe(positions)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x)), None

    def fix_stds(self, stds: Mapping[str, float]) -> None:
        """Give each LayerNorm the std of its path.

        Raises:
            HarvestError: a LayerNorm has no std, or a path is not that of a LayerNorm.
        """
        norms = {n: module for n, module in self.named_modules() if isinstance(module, LayerNorm)}
        if norms.keys() != stds.keys():
            name = min(norms.keys() ^ stds.keys())
            raise HarvestError(
                f"The fixed LayerNorm stds and the target model disagree about {name!r}; there "
                f"must be one for each of {', '.join(norms)}."
            )
        for name, norm in norms.items():
            norm.std = stds[name]


def build_gpt2_simple(class_path: str, source: str) -> nn.Module:
    """Build the model from the `model_config.yaml` of its training run, without its weights.

    Args:
        class_path: of `GPT2Simple`.
        source: `<run>/checkpoints/model_step_<n>.pt`, or a `wandb:` name.

    Raises:
        HarvestError: the config or the fixed LayerNorm stds are not there or wrong.
    """
    config = read_model_config(class_path, source, GPT2SimpleConfig)
    stds = read_fixed_stds(source)

    def build() -> nn.Module:
        model = GPT2Simple(config)
        if stds is not None:
            model.fix_stds(stds)
        return model

    return build_weightless(build, buffer_bytes=0)
