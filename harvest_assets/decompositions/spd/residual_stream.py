"""Which layers of a target read the residual stream and which write to it, by its family.

To add a family, add its class to `FAMILIES`. Families that put a norm between a layer's output and
the stream, or scale their embeddings, do not fit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from harvest_assets.decompositions.directions import (
    LOGITS,
    RESIDUAL_STREAM,
    TOKENS,
    Directions,
    LayerDirections,
    ResidualStream,
)
from harvest_assets.decompositions.spd.masked_forward import MaskedLayer
from harvest_assets.decompositions.spd.run_config import PRE_IDENTITY

_UNEMBEDDING = "lm_head"


@dataclass(frozen=True)
class Family:
    """Where the modules of a family are.

    Args:
        block: pattern of what the paths of a block's modules begin with.
        embedding: path of the token embedding.
        norm: of the final norm.
        readers: modules of a block that read the stream, after a norm.
        writers: modules of a block whose output is added to the stream.
        positions: of the position embedding.
    """

    block: str
    embedding: str
    norm: str
    readers: tuple[str, ...]
    writers: tuple[str, ...]
    positions: str | None = None

    def reads(self, path: str) -> Literal["residual stream", "tokens"] | None:
        """What the input of a module is."""
        path = path.removesuffix(f".{PRE_IDENTITY}")
        if path == self.embedding:
            return TOKENS
        is_reader = path == _UNEMBEDDING or self._in_block(path) in self.readers
        return RESIDUAL_STREAM if is_reader else None

    def writes(self, path: str) -> Literal["residual stream", "logits"] | None:
        """Where the output of a module goes."""
        if path == _UNEMBEDDING:
            return LOGITS
        is_embedding = path in (self.embedding, self.positions)
        is_writer = is_embedding or self._in_block(path) in self.writers
        return RESIDUAL_STREAM if is_writer else None

    def _in_block(self, path: str) -> str | None:
        found = re.match(self.block, path)
        return None if found is None else path[found.end() :]


_SIMPLE = Family(
    block=r"h\.\d+\.",
    embedding="wte",
    norm="ln_f",
    readers=(
        *(f"attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "c_attn")),
        *(f"mlp.{name}" for name in ("c_fc", "gate_proj", "up_proj")),
    ),
    writers=("attn.o_proj", "mlp.down_proj"),
    positions="wpe",
)
_LLAMA = Family(
    block=r"model\.layers\.\d+\.",
    embedding="model.embed_tokens",
    norm="model.norm",
    readers=(
        *(f"self_attn.{name}_proj" for name in "qkv"),
        *(f"mlp.{name}_proj" for name in ("gate", "up")),
    ),
    writers=("self_attn.o_proj", "mlp.down_proj"),
)
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("GPT2Simple", "LlamaSimple", "LlamaSimpleMLP"), _SIMPLE),
    **dict.fromkeys(
        ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"), _LLAMA
    ),
    "GPT2LMHeadModel": Family(
        block=r"transformer\.h\.\d+\.",
        embedding="transformer.wte",
        norm="transformer.ln_f",
        readers=("attn.c_attn", "mlp.c_fc"),
        writers=("attn.c_proj", "mlp.c_proj"),
        positions="transformer.wpe",
    ),
}


def directions_of(target: nn.Module, layers: Sequence[MaskedLayer]) -> Directions:
    """The directions of the components of some layers of a target."""
    name = type(target).__name__
    family = FAMILIES.get(name)
    return Directions(
        tuple(
            LayerDirections(
                it.found.path,
                it.V.T,
                it.U,
                family.reads(it.found.path) if family is not None else None,
                family.writes(it.found.path) if family is not None else None,
            )
            for it in layers
        ),
        None if family is None else _stream(target, family),
        name,
    )


def _stream(target: nn.Module, family: Family) -> ResidualStream:
    def weight(path: str) -> torch.Tensor:
        return target.get_submodule(path).get_parameter("weight")

    norm = target.get_submodule(family.norm)
    return ResidualStream(
        embeddings=weight(family.embedding),
        unembeddings=weight(_UNEMBEDDING),
        norm_scale=weight(family.norm),
        norm_centers=getattr(norm, "bias", None) is not None,  # an RMS norm has none
    )
