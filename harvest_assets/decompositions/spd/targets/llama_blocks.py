"""What the small Llamas share: all but their MLP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import pydantic
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F  # noqa: N812

MOST = 1 << 26  # of anything in a config: the tables of the largest are still built fast


class LlamaConfig(pydantic.BaseModel):
    """`model_config.yaml` of the Llama families; other keys are ignored.

    A family gives `n_intermediate`, the width inside the MLP, its default.
    """

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)

    block_size: int = Field(1024, gt=0, le=MOST)
    vocab_size: int = Field(50257, gt=0, le=MOST)
    n_layer: int = Field(12, ge=0, le=MOST)
    n_head: int = Field(12, gt=0, le=MOST)
    n_embd: int = Field(768, gt=0, le=MOST)
    n_intermediate: int = Field(gt=0, le=MOST)
    mlp_bias: bool = False
    attn_bias: bool = False
    rotary_base: float = Field(10000, gt=0, allow_inf_nan=False)
    rotary_adjacent_pairs: bool = False
    n_ctx: int = Field(1024, gt=0, le=MOST)
    n_key_value_heads: int = Field(3, gt=0, le=MOST)
    use_grouped_query_attention: bool = True
    rms_norm_eps: float = Field(1e-6, ge=0, allow_inf_nan=False)

    @pydantic.model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.n_embd % (2 * self.n_head):
            raise ValueError(
                f"n_embd {self.n_embd} does not give {self.n_head} heads of an even width"
            )
        if self.use_grouped_query_attention and self.n_head % self.n_key_value_heads:
            raise ValueError(
                f"n_head {self.n_head} is not a multiple of n_key_value_heads "
                f"{self.n_key_value_heads}"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.n_embd // self.n_head

    @property
    def table_bytes(self) -> int:
        """Size of the two rotary tables, float32."""
        return 2 * 4 * self.block_size * self.head_dim


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * weight`, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., width]."""
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rotary_tables(config: LlamaConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the rotary angles, float32 [block_size, head_dim].

    The angle of frequency i at position p is `p / base^(i / (head_dim / 2))`. From `n_ctx` on the
    angles stay those of position `n_ctx - 1`.
    """
    half = config.head_dim // 2
    position = torch.arange(config.block_size).clamp(max=config.n_ctx - 1).float()
    angle = position[:, None] / config.rotary_base ** (torch.arange(half) / half)
    angle = (
        angle.repeat_interleave(2, dim=1)
        if config.rotary_adjacent_pairs
        else torch.cat([angle, angle], dim=1)
    )
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, pairs: bool) -> torch.Tensor:
    """Rotate queries or keys by their positions: `x cos + rot(x) sin`.

    Args:
        x: [B, heads, S, head_dim].
        cos: [S, head_dim].
        sin: [S, head_dim].
        pairs: adjacent elements are rotated against each other, else the two halves.
    """
    if pairs:
        turned = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
    else:
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat([-second, first], dim=-1)
    return x * cos + turned * sin


class Attention(nn.Module):
    """Causal attention with rotary positions; keys and values may have fewer heads."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        width, bias = config.n_embd, config.attn_bias
        if config.use_grouped_query_attention:
            narrow = config.head_dim * config.n_key_value_heads
            self.q_proj = nn.Linear(width, width, bias=bias)
            self.k_proj = nn.Linear(width, narrow, bias=bias)
            self.v_proj = nn.Linear(width, narrow, bias=bias)
        else:
            self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.o_proj = nn.Linear(width, width, bias=bias)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """[B, S, n_embd], rotary tables [S, head_dim] -> [B, S, n_embd]."""
        config = self.config
        if config.use_grouped_query_attention:
            parts = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        else:
            parts = self.c_attn(x).chunk(3, dim=-1)
        q, k, v = (p.unflatten(-1, (-1, config.head_dim)).transpose(1, 2) for p in parts)
        q = rotate(q, cos, sin, pairs=config.rotary_adjacent_pairs)
        k = rotate(k, cos, sin, pairs=config.rotary_adjacent_pairs)
        repeats = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A residual pre-norm block."""

    def __init__(self, config: LlamaConfig, mlp: nn.Module) -> None:
        super().__init__()
        self.rms_1 = RMSNorm(config.n_embd, config.rms_norm_eps)
        self.attn = Attention(config)
        self.rms_2 = RMSNorm(config.n_embd, config.rms_norm_eps)
        self.mlp = mlp

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """[B, S, n_embd], rotary tables [S, head_dim] -> [B, S, n_embd]."""
        x = x + self.attn(self.rms_1(x), cos, sin)
        return x + self.mlp(self.rms_2(x))  # type: ignore[no-any-return]


class LlamaLM(nn.Module):
    """The language model; its input and output embeddings are one matrix.

    Args:
        config: of the family.
        make_mlp: makes the MLP of a block.
    """

    def __init__(self, config: LlamaConfig, make_mlp: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.max_context_length = config.block_size
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.h = nn.ModuleList(Block(config, make_mlp()) for _ in range(config.n_layer))
        self.ln_f = RMSNorm(config.n_embd, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight
        cos, sin = rotary_tables(config)
        self.rotary_cos: torch.Tensor
        self.rotary_sin: torch.Tensor
        self.register_buffer("rotary_cos", cos, persistent=False)
        self.register_buffer("rotary_sin", sin, persistent=False)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Int [B, S] -> logits [B, S, vocab], and the loss, which is not asked for."""
        x = self.wte(tokens)
        length = tokens.shape[1]
        cos, sin = self.rotary_cos[:length], self.rotary_sin[:length]
        for block in self.h:
            x = block(x, cos, sin)
        return self.lm_head(self.ln_f(x)), None
