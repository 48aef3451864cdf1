"""What an object in a module must have to be harvested: a part of `Decomposition`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from harvest_assets.data.data import DataSpec
    from harvest_assets.harvester.stream import Activations


@runtime_checkable
class Source(Protocol):
    """An object that computes activations; see `Decomposition` for each member.

    An `OwnDecomposition` and every complete `Decomposition` are one.
    """

    @property
    def firing_strength(self) -> str:
        """What the firing strength is, in words."""

    @property
    def second_value(self) -> str | None:
        """What the second value is, in words; None if there is none."""

    @property
    def sha256(self) -> str | None:
        """Digest of what determines the model; None if that is not known."""

    @property
    def layers(self) -> tuple[tuple[str, int], ...]:
        """(name, number of components) of each layer, in flat order."""

    @property
    def vocab_size(self) -> int:
        """Width of the probabilities."""

    @property
    def max_context_length(self) -> int | None:
        """Tokens of the longest row; None if there is no limit."""

    @property
    def default_ci_threshold(self) -> float:
        """What replaces the default of `ci_threshold`."""

    @property
    def tokens_per_forward(self) -> int:
        """Tokens that are computed together."""

    @property
    def extra_bytes_per_token(self) -> int:
        """Memory for each token beside what is returned."""

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights."""

    def data_spec(self, context_length: int | None) -> DataSpec:
        """Where the rows come from; its `tokenizer_name` is the tokenizer."""

    def options(self) -> frozenset[str]:
        """Which of `ci_noise` and `bf16` change the model."""

    def notes(self) -> list[str]:
        """Sentences for readers of the results."""

    def model_name(self) -> str:
        """The model, in words."""

    def open_model(
        self, device: str | torch.device, *, ci_noise: bool = False, bf16: bool = False
    ) -> Callable[[torch.Tensor], Activations]:
        """The model on a device."""
