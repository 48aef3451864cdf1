"""Tensors from safetensors files and from files of `torch.save`, without trusting either."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.errors import HarvestError, reason_of

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def open_tensors(path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a file, by name, memory-mapped.

    Raises:
        HarvestError: the file is missing, damaged, or holds anything but named tensors.
    """
    if path.suffix != ".safetensors":
        return Checkpoint.open(path).state
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise HarvestError(f"{path} is not a regular file.")
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise HarvestError(
            f"{path} cannot be read as a safetensors file: {reason_of(error)}."
        ) from error


class Weights:
    """The weights of one dictionary.

    Args:
        path: their file.

    Raises:
        HarvestError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._opened = Checkpoint(path, open_tensors(path))

    @property
    def path(self) -> Path:
        """The file."""
        return self._opened.path

    def __contains__(self, name: str) -> bool:
        return name in self._opened.state

    def require_known(self, names: Sequence[str], *, is_cross_layer: bool = False) -> None:
        """Check that there are no tensors but these; any might change what the encoder gives.

        Args:
            names: of tensors; those of a cross-layer transcoder have `.<layer>` added.
            is_cross_layer: whether the file is one.

        Raises:
            HarvestError: there is one.
        """
        for found in self._opened.state:
            if (found.rpartition(".")[0] if is_cross_layer else found) not in names:
                raise HarvestError(
                    f"{self.path} holds the tensor {found[:100]!r}, which is not supported; "
                    f"expected {', '.join(names)}."
                )

    def matrix_shape(self, name: str) -> tuple[int, int]:
        """Rows and columns of a matrix.

        Raises:
            HarvestError: it is missing, or not a matrix.
        """
        found = self._opened.state.get(name)
        if found is None or found.ndim != 2 or 0 in found.shape:  # noqa: PLR2004
            raise HarvestError(f"{self.path}: {name} is missing, or not a matrix.")
        return found.shape[0], found.shape[1]

    def tensor(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """One tensor, float32.

        Raises:
            HarvestError: it is missing, has another shape or type, or holds a NaN or infinity.
        """
        tensor = self._opened.tensor(name, tuple(shape))
        if tensor.dtype not in _DTYPES:
            raise HarvestError(
                f"{self.path}: {name} is {tensor.dtype}; expected float64, float32, float16 or "
                "bfloat16."
            )
        tensor = tensor.float()
        if not tensor.isfinite().all():
            raise HarvestError(f"{self.path}: {name} holds a NaN or an infinity.")
        return tensor
