"""Which modules of the target are decomposed, in flat order, and what passes through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from harvest_assets.decompositions.spd.run_config import ModuleInfo
from harvest_assets.errors import HarvestError


class Identity(nn.Module):
    """A layer that returns its input, [..., width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., width] -> the same."""
        return x


@dataclass(frozen=True)
class DecomposedLayer:
    """One decomposed module.

    Args:
        path: its dotted path in the target.
        C: components.
        module: the module itself.
        d_in: width of its input; of an embedding, the number of its tokens.
        d_out: width of its output.
    """

    path: str
    C: int
    module: nn.Module
    d_in: int
    d_out: int

    @property
    def input_width(self) -> int:
        """Width of what a global CI function reads of it: of an embedding, of V[token]."""
        return self.C if self.reads_tokens else self.d_in

    @property
    def reads_tokens(self) -> bool:
        """Its input is token ids instead of vectors."""
        return isinstance(self.module, nn.Embedding)

    def require_vectors(self, ci_fn_type: str) -> None:
        """Check that a CI function of this kind can read the layer's input.

        Raises:
            HarvestError: the layer is an embedding.
        """
        if self.reads_tokens:
            raise HarvestError(
                f"ci_fn_type {ci_fn_type!r} reads a layer's input, but {self.path} is an "
                "embedding; its components allow only 'mlp'."
            )


def find_layers(target: nn.Module, module_info: Sequence[ModuleInfo]) -> list[DecomposedLayer]:
    """Match the patterns in order, each in the order of the target's `named_modules()`.

    Args:
        target: the model that was decomposed, its identity layers inserted.
        module_info: `fnmatch` patterns over dotted paths; `*` crosses dots.

    Raises:
        HarvestError: a pattern matches nothing, a module is matched twice, or cannot be decomposed.
    """
    layers: dict[str, DecomposedLayer] = {}
    for info in module_info:
        pattern = info.module_pattern
        matches = [
            (path, module) for path, module in target.named_modules() if fnmatchcase(path, pattern)
        ]
        if not matches:
            raise HarvestError(f"module_pattern {pattern!r} matches no module of the target model.")
        for path, module in matches:
            if path in layers:
                raise HarvestError(
                    f"{path} is matched twice, the second time by module_pattern {pattern!r}."
                )
            d_in, d_out = _widths(path, module, pattern)
            layers[path] = DecomposedLayer(path, info.C, module, d_in, d_out)
    return list(layers.values())


def matrix_widths(module: nn.Module) -> tuple[int, int] | None:
    """Width of input and output of a module that multiplies by one matrix; None for others."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D":  # of transformers: its weight is [d_in, d_out]
        d_in, d_out = module.get_parameter("weight").shape
        return d_in, d_out
    return None


def by_position(
    given: torch.Tensor, layer: DecomposedLayer, shape: tuple[int, ...]
) -> torch.Tensor:
    """A layer's input as [B, S, d_in], an embedding's as [B, S].

    Some targets flatten batch and position before a layer, and positions themselves are often
    looked up once for all rows of a batch.
    """
    width = () if layer.reads_tokens else (layer.d_in,)
    if layer.reads_tokens and tuple(given.shape) in (shape[1:], (1, *shape[1:])):
        return given.expand(shape)
    if tuple(given.shape) not in ((*shape, *width), (shape[0] * shape[1], *width)):
        raise HarvestError(
            f"{layer.path} gets an input of shape {list(given.shape)} for tokens of shape "
            f"{list(shape)}, so what belongs to which position is not known."
        )
    return given.reshape(*shape, *width)


def _widths(path: str, module: nn.Module, pattern: str) -> tuple[int, int]:
    """Width of input and output of a module whose components can be harvested."""
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    if isinstance(module, Identity):
        return module.width, module.width
    widths = matrix_widths(module)
    if widths is not None:
        return widths
    kind = type(module).__name__
    what = f"{path} ({kind})" if path else f"the whole model ({kind})"
    raise HarvestError(
        f"module_pattern {pattern!r} matches {what}, whose components cannot be harvested; those "
        "of a Linear, a Conv1D, an Embedding or an identity layer can."
    )
