"""The encoder of one dictionary: from activations of the target to activations of latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from harvest_assets.decompositions.dictionaries.activations import RowTopK

_EPS = 1e-5

Normalize = Callable[[torch.Tensor], torch.Tensor]


def layer_norm(x: torch.Tensor) -> torch.Tensor:
    """[..., d] minus its mean, divided by its sample standard deviation plus 1e-5."""
    x = x - x.mean(-1, keepdim=True)
    return x / (x.std(-1, keepdim=True) + _EPS)


def constant_norm(x: torch.Tensor) -> torch.Tensor:
    """[..., d] scaled to the norm sqrt(d)."""
    factor: torch.Tensor = x.shape[-1] ** 0.5 / x.norm(dim=-1, keepdim=True)
    return x * factor


class Encoder(nn.Module):
    """`activation(((normalize(x) - offset) @ weight + bias) * scale)`.

    Args:
        weight: float32 [d_in, n].
        activation: one of `activations`.
        architecture: what the file calls it.
        bias: float32 [n]; None: no bias.
        offset: float32 [d_in]; None: nothing is subtracted.
        scale: float32 [n], of either sign; None: 1.
        normalize: of the input; None: it is taken as it is.
        trained_centered: whether training saw vectors without their mean, because its program
            had removed it from the model's weights.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    offset: torch.Tensor | None
    scale: torch.Tensor | None

    def __init__(
        self,
        weight: torch.Tensor,
        activation: nn.Module,
        architecture: str,
        *,
        bias: torch.Tensor | None = None,
        offset: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
        normalize: Normalize | None = None,
        trained_centered: bool = False,
    ) -> None:
        super().__init__()
        for name, value in {
            "weight": weight,
            "bias": bias,
            "offset": offset,
            "scale": scale,
        }.items():
            self.register_buffer(name, value)
        self.activation = activation
        self.architecture = architecture
        self.normalize = normalize
        self.trained_centered = trained_centered

    @property
    def d_in(self) -> int:
        """Width of the input."""
        return self.weight.shape[0]

    @property
    def n_latents(self) -> int:
        """Latents."""
        return self.weight.shape[1]

    @property
    def rule(self) -> str:
        """Which pre-activations become activations, in words."""
        return str(self.activation.rule)

    @property
    def reads_rows(self) -> bool:
        """Whether an activation depends on the other tokens of its row."""
        return isinstance(self.activation, RowTopK)

    @property
    def n_weights(self) -> int:
        """Values of all tensors."""
        return sum(tensor.numel() for tensor in self.buffers())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float [B, S, d_in] -> float32 [B, S, n]."""
        x = x.float()
        if self.normalize is not None:
            x = self.normalize(x)
        if self.offset is not None:
            x = x - self.offset
        pre = x @ self.weight
        if self.bias is not None:
            pre += self.bias
        if self.scale is not None:
            pre *= self.scale
        activations: torch.Tensor = self.activation(pre)
        return activations
