"""The model of a source, with its results checked, and reduced to the layers that are harvested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from harvest_assets.decompositions.own_model.own_decomposition import OwnOutputs
from harvest_assets.errors import HarvestError, reason_of

if TYPE_CHECKING:
    from harvest_assets.harvester.stream import Activations


_MAX_OFF = 1e-2  # of a sum of probabilities, also in bfloat16


class SourceModel:
    """A function of tokens.

    Args:
        name: of the object, for messages.
        model: what the object opened.
        sizes: width of the probabilities, and number of components of all layers.
        has_second_value: whether there must be a second value, or none.
        columns: of the components that are kept.
        device: of the results.
    """

    def __init__(
        self,
        name: str,
        model: Callable[[torch.Tensor], Activations],
        sizes: tuple[int, int],
        columns: Sequence[range],
        device: torch.device,
        *,
        has_second_value: bool,
    ) -> None:
        self._name = name
        self._model = model
        self._vocab_size, self._n_components = sizes
        self._columns = columns
        self._device = device
        self._has_second_value = has_second_value
        self._sums_checked = False

    def __call__(self, tokens: torch.Tensor) -> OwnOutputs:
        """Compute activations of tokens int64 [B, S].

        Raises:
            HarvestError: the function fails, or its results have other shapes.
        """
        with torch.inference_mode():
            try:
                found = self._model(tokens.to(self._device))
                probs, firing, second = (
                    found.output_probs,
                    found.firing_strengths,
                    found.second_values,
                )
            except (HarvestError, torch.OutOfMemoryError):
                raise
            except (Exception, SystemExit) as error:
                raise HarvestError(
                    f"{self._name} failed for tokens of shape {list(tokens.shape)}: "
                    f"{type(error).__name__}: {reason_of(error)}."
                ) from error
            self._check("probabilities", probs, (*tokens.shape, self._vocab_size))
            self._check_sums(probs)
            self._check("firing strengths", firing, (*tokens.shape, self._n_components))
            if (second is not None) != self._has_second_value:
                raise HarvestError(
                    f"{self._name} returns {'a' if second is not None else 'no'} second value; "
                    "give it a name with second_value= if and only if the function returns one."
                )
            if second is not None:
                self._check("second values", second, (*tokens.shape, self._n_components))
            return OwnOutputs(
                probs.to(self._device).float(),
                self._kept(firing),
                None if second is None else self._kept(second),
            )

    def _check(self, what: str, values: object, shape: tuple[int, ...]) -> None:
        found = tuple(getattr(values, "shape", ()))
        if not isinstance(values, torch.Tensor) or found != shape:
            of = list(found) if isinstance(values, torch.Tensor) else type(values).__name__
            raise HarvestError(
                f"{self._name} returns {what} of shape {of}; expected a tensor {list(shape)}."
            )

    def _check_sums(self, probs: torch.Tensor) -> None:
        """Check the first results: other values would be noticed only when they are merged."""
        if self._sums_checked:
            return
        sums = probs.double().sum(dim=-1)
        worst = sums.flatten()[(sums - 1).abs().argmax()].item() if sums.numel() else 1.0
        lowest = probs.min().item() if probs.numel() else 0.0
        if not (abs(worst - 1) <= _MAX_OFF and lowest >= 0):
            raise HarvestError(
                f"{self._name} returns first values that are not probabilities: at a position they "
                f"sum to {worst:.4g}, and the lowest is {lowest:.4g}; expected a softmax over the "
                "vocabulary."
            )
        self._sums_checked = True

    def _kept(self, values: torch.Tensor) -> torch.Tensor:
        values = values.to(self._device).float()
        if sum(map(len, self._columns)) == self._n_components:
            return values
        return torch.cat([values[..., it.start : it.stop] for it in self._columns], dim=-1)
