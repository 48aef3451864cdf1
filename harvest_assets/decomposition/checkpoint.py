"""The checkpoint of an SPD run: a flat state dict, opened without trusting it.

Keys are `target_model.<name>`, `_components.<layer>.<V or U>` and `_ci_fns.<layer>.<name>`, where
`<layer>` is the layer's path with `-` for `.`.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from harvest_assets.errors import HarvestError

_TARGET = "target_model."
_COMPONENTS = "_components."
_CI_FUNCTIONS = "_ci_fns."


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a run, float32 or as saved, memory-mapped.

    Args:
        path: the file, for messages.
        state: the whole state dict.
    """

    path: Path
    state: Mapping[str, torch.Tensor]

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Open a checkpoint; nothing in it is executed.

        Raises:
            HarvestError: the file is not there, damaged, or holds anything but named tensors.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
            msg = f"{path} cannot be read as a checkpoint: {_first_line(error)}"
            raise HarvestError(msg) from error
        except pickle.UnpicklingError as error:
            msg = f"{path} holds more than tensors, which is not safe to open, or is damaged."
            raise HarvestError(msg) from error
        if not isinstance(state, dict) or not all(
            isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
        ):
            msg = f"{path} is no state dict: it must map names to tensors."
            raise HarvestError(msg)
        return cls(path, state)

    def target_weights(self) -> dict[str, torch.Tensor]:
        """The target model's own weights, by their names in the target."""
        return self._below(_TARGET)

    def component_matrices(self, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        """V [d_in, C] and U [C, d_out] of a layer.

        Raises:
            HarvestError: one is missing.
        """
        prefix = f"{_COMPONENTS}{layer.replace('.', '-')}."
        for name in ("V", "U"):
            if f"{prefix}{name}" not in self.state:
                msg = f"{self.path} lacks {prefix}{name}: it is no checkpoint of this config."
                raise HarvestError(msg)
        return self.state[f"{prefix}V"], self.state[f"{prefix}U"]

    def ci_weights(self, layer: str) -> dict[str, torch.Tensor]:
        """The weights of a layer's CI function, by their names in it."""
        return self._below(f"{_CI_FUNCTIONS}{layer.replace('.', '-')}.")

    def check_shape(self, what: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
        """See that a tensor has the shape that config and target ask for.

        Raises:
            HarvestError: it has not.
        """
        if tuple(tensor.shape) != shape:
            msg = f"{self.path}: {what} has the shape {list(tensor.shape)}, not {list(shape)}."
            raise HarvestError(msg)

    def _below(self, prefix: str) -> dict[str, torch.Tensor]:
        return {
            key.removeprefix(prefix): value
            for key, value in self.state.items()
            if key.startswith(prefix)
        }


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
