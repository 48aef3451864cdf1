"""Safetensors files of numbers: digested while written, long zeros as holes (`HashedFile`)."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from harvest_assets.errors import HarvestError
from harvest_assets.files.hashed_file import HashedFile
from harvest_assets.files.records import FileDigest

_TYPE_NAMES = {
    torch.uint8: "U8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.float64: "F64",
}


class Column(NamedTuple):
    """A tensor that is written piece by piece.

    Args:
        dtype: of the tensor.
        shape: of the tensor.
        pieces: its values in order, of the same type.
    """

    dtype: torch.dtype
    shape: Sequence[int]
    pieces: Iterable[NDArray[Any]]


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> FileDigest:
    """Write tensors on the CPU into a safetensors file, and return its digest."""
    columns = {
        name: Column(tensor.dtype, tensor.shape, (tensor.contiguous().numpy(),))
        for name, tensor in tensors.items()
    }
    return save_columns(path, columns)


def save_columns(path: Path, columns: Mapping[str, Column]) -> FileDigest:
    """Write tensors that need not fit into memory; otherwise as `save_tensors`."""
    # The widest first, so that every tensor is aligned.
    ordered = sorted(columns.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {}
    end = 0
    for name, column in ordered:
        start, end = end, end + math.prod(column.shape) * column.dtype.itemsize
        header[name] = {
            "dtype": _TYPE_NAMES[column.dtype],
            "shape": list(column.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with HashedFile(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, column in ordered:
            for piece in column.pieces:
                file.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8))
    return file.digest


class Expected(NamedTuple):
    """Expected shape and types of a tensor; -1 in the shape is any length."""

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]

    def fits(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor has this shape and one of these types."""
        return (
            tensor.dtype in self.dtypes
            and tensor.ndim == len(self.shape)
            and all(w in (-1, h) for w, h in zip(self.shape, tensor.shape, strict=True))
        )


def load_tensors(path: Path, expected: Mapping[str, Expected]) -> dict[str, torch.Tensor]:
    """The tensors of a file, memory-mapped.

    Raises:
        HarvestError: the file cannot be read, or a tensor has another shape or type.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in expected}
    except (OSError, SafetensorError) as error:
        raise HarvestError(f"{path} cannot be read: {error}.") from error
    for name, tensor in tensors.items():
        if not expected[name].fits(tensor):
            found = f"{tensor.dtype} {list(tensor.shape)}"
            raise HarvestError(
                f"{path}: {name} is {found}; expected the shape {list(expected[name].shape)}."
            )
    return tensors
