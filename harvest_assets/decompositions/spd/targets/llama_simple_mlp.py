"""LlamaSimpleMLP: a small Llama whose MLP is a tanh-GELU between two matrices."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from harvest_assets.decompositions.spd.targets.gelu_mlp import GeluMLP
from harvest_assets.decompositions.spd.targets.llama_blocks import MOST, LlamaConfig, LlamaLM
from harvest_assets.decompositions.spd.targets.pretrain_config import read_model_config
from harvest_assets.decompositions.spd.targets.weightless import build_weightless


class LlamaSimpleMLPConfig(LlamaConfig):
    """`model_config.yaml` of the family."""

    n_intermediate: int = Field(768 * 4, gt=0, le=MOST)


class LlamaSimpleMLP(LlamaLM):
    """The language model."""

    def __init__(self, config: LlamaSimpleMLPConfig) -> None:
        def make_mlp() -> nn.Module:
            return GeluMLP(config.n_embd, config.n_intermediate, bias=config.mlp_bias)

        super().__init__(config, make_mlp)


def build_llama_simple_mlp(class_path: str, source: str) -> nn.Module:
    """Build the model from the `model_config.yaml` of its training run, without its weights.

    Args:
        class_path: of `LlamaSimpleMLP`.
        source: `<run>/checkpoints/model_step_<n>.pt`, or a `wandb:` name.

    Raises:
        HarvestError: the config is not there or wrong.
    """
    config = read_model_config(class_path, source, LlamaSimpleMLPConfig)
    return build_weightless(lambda: LlamaSimpleMLP(config), buffer_bytes=config.table_bytes)
