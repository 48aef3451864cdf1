"""The directions that components read from and write to: what weights say without data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

RESIDUAL_STREAM: Literal["residual stream"] = "residual stream"
TOKENS: Literal["tokens"] = "tokens"
LOGITS: Literal["logits"] = "logits"


@dataclass(frozen=True)
class LayerDirections:
    """The directions of a layer's components.

    Args:
        name: of the layer.
        read: float32 [C, d_in]; of an embedding, [C, vocab].
        write: float32 [C, d_out].
        reads: what the layer's input is; None where that is not known to be one of these.
        writes: where its output goes; likewise.
    """

    name: str
    read: torch.Tensor
    write: torch.Tensor
    reads: Literal["residual stream", "tokens"] | None
    writes: Literal["residual stream", "logits"] | None


@dataclass(frozen=True)
class ResidualStream:
    """How tokens enter and leave the residual stream of a model.

    Args:
        embeddings: [vocab, width].
        unembeddings: [vocab, width].
        norm_scale: of the final norm, [width].
        norm_centers: whether that subtracts the mean.
    """

    embeddings: torch.Tensor
    unembeddings: torch.Tensor
    norm_scale: torch.Tensor
    norm_centers: bool

    def promoted(self, direction: torch.Tensor) -> torch.Tensor:
        """What adding a direction [width] to the stream does to each logit, about: [vocab].

        The final norm divides by the size of the whole stream, which is left out, as is what later
        layers make of the direction.
        """
        if self.norm_centers:
            direction = direction - direction.mean()
        return self.unembeddings @ (self.norm_scale * direction)


@dataclass(frozen=True)
class Directions:
    """The directions of all components.

    Args:
        layers: in flat order.
        stream: None where the target's family is not known.
        target: name of the target's class.
    """

    layers: tuple[LayerDirections, ...]
    stream: ResidualStream | None
    target: str


@runtime_checkable
class HasDirections(Protocol):
    """A model, as `open_model` returns it, that gives directions; a kind may lack this."""

    def directions(self) -> Directions:
        """The directions of all components."""
