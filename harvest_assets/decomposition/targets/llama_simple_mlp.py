"""LlamaSimpleMLP: a small Llama whose MLP is a tanh-GELU between two matrices."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from harvest_assets.decomposition.targets.pretrain_config import read_model_config


@dataclass(frozen=True)
class LlamaConfig:
    """`model_config.yaml` of the Llama families; other keys are ignored."""

    block_size: int = 1024
    vocab_size: int = 50257
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    n_intermediate: int = 768 * 4
    mlp_bias: bool = False
    attn_bias: bool = False
    rotary_base: float = 10000
    rotary_adjacent_pairs: bool = False
    n_ctx: int = 1024
    n_key_value_heads: int = 3
    use_grouped_query_attention: bool = True
    rms_norm_eps: float = 1e-6


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


def rotary_tables(config: LlamaConfig, n_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the rotary angles, float32 [n_positions, head_dim].

    From `n_ctx` on the angles stay those of position `n_ctx - 1`.
    """
    half = config.n_embd // config.n_head // 2
    position = torch.arange(n_positions).clamp(max=config.n_ctx - 1).float()
    frequency = 1.0 / config.rotary_base ** (torch.arange(half).float() / half)
    angle = position[:, None] * frequency
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
            narrow = width // config.n_head * config.n_key_value_heads
            self.q_proj = nn.Linear(width, width, bias=bias)
            self.k_proj = nn.Linear(width, narrow, bias=bias)
            self.v_proj = nn.Linear(width, narrow, bias=bias)
        else:
            self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.o_proj = nn.Linear(width, width, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, S, n_embd] -> [B, S, n_embd]."""
        config = self.config
        if config.use_grouped_query_attention:
            parts = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        else:
            parts = self.c_attn(x).chunk(3, dim=-1)
        head_dim = config.n_embd // config.n_head
        q, k, v = (p.unflatten(-1, (-1, head_dim)).transpose(1, 2) for p in parts)
        cos, sin = (t.to(x.device) for t in rotary_tables(config, x.shape[1]))
        q = rotate(q, cos, sin, pairs=config.rotary_adjacent_pairs)
        k = rotate(k, cos, sin, pairs=config.rotary_adjacent_pairs)
        repeats = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


class GeluMLP(nn.Module):
    """`down_proj(gelu(c_fc(x)))`, GELU by its tanh approximation."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.n_intermediate, bias=config.mlp_bias)
        self.gelu = nn.GELU(approximate="tanh")
        self.down_proj = nn.Linear(config.n_intermediate, config.n_embd, bias=config.mlp_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, S, n_embd] -> [B, S, n_embd]."""
        return self.down_proj(self.gelu(self.c_fc(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A residual pre-norm block."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.rms_1 = RMSNorm(config.n_embd, config.rms_norm_eps)
        self.attn = Attention(config)
        self.rms_2 = RMSNorm(config.n_embd, config.rms_norm_eps)
        self.mlp = GeluMLP(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, S, n_embd] -> [B, S, n_embd]."""
        x = x + self.attn(self.rms_1(x))
        return x + self.mlp(self.rms_2(x))  # type: ignore[no-any-return]


class LlamaSimpleMLP(nn.Module):
    """The language model; its input and output embeddings are one matrix."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.max_context_length = config.block_size
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = RMSNorm(config.n_embd, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Int [B, S] -> logits [B, S, vocab], and the loss, which is not asked for."""
        x = self.wte(tokens)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x)), None


def build_llama_simple_mlp(class_name: str, source: str) -> nn.Module:
    """Build the model from the `model_config.yaml` of its training run.

    Args:
        class_name: `LlamaSimpleMLP`.
        source: `<run>/checkpoints/model_step_<n>.pt`, or a `wandb:` name.

    Raises:
        HarvestError: the config is not there or wrong.
    """
    known = {field.name: field.type for field in dataclasses.fields(LlamaConfig)}
    values, path = read_model_config(class_name, source, known)
    return _built(LlamaConfig(**values), path)


def _built(config: LlamaConfig, path: Path) -> LlamaSimpleMLP:
    check_heads(config, path)
    return LlamaSimpleMLP(config)


def check_heads(config: LlamaConfig, path: Path) -> None:
    """See that the heads divide the width and each other.

    Raises:
        HarvestError: they do not.
    """
    from harvest_assets.errors import HarvestError

    grouped = config.use_grouped_query_attention
    if config.n_embd % (2 * config.n_head) or (
        grouped and config.n_head % config.n_key_value_heads
    ):
        msg = (
            f"{path}: n_embd {config.n_embd}, n_head {config.n_head} and n_key_value_heads "
            f"{config.n_key_value_heads} do not divide each other."
        )
        raise HarvestError(msg)
