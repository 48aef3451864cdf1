"""Copies in host memory, made block by block: a GPU never holds a second copy of a large tensor."""

from __future__ import annotations

import torch

from harvest_assets.harvester.counters import (
    narrowest,
    narrowest_type,
    pack_upper,
    packed_length,
    packed_offset,
)

_BLOCK_BYTES = 1 << 26
_PACKED_ROWS = 256


def to_host(
    values: torch.Tensor, dtype: torch.dtype | None = None, rows: torch.Tensor | None = None
) -> torch.Tensor:
    """A copy on the CPU.

    Args:
        values: [n, ...].
        dtype: of the copy.
        rows: int64, which rows to copy, in this order; None: all.
    """
    n = len(values) if rows is None else len(rows)
    host = torch.empty((n, *values.shape[1:]), dtype=dtype or values.dtype)
    step = max(1, _BLOCK_BYTES * n // max(1, host.nbytes))
    # Page-locked memory, which a GPU writes at full speed.
    staging = torch.empty_like(host[:step], pin_memory=values.is_cuda)
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        staged = staging[: part.stop - start]
        staged.copy_(values[part] if rows is None else values[rows[part]])
        host[part] = staged
    return host


def counts_to_host(counts: torch.Tensor) -> torch.Tensor:
    """A copy of [n, ...] on the CPU, in the narrowest integer type."""
    return to_host(counts, narrowest_type(counts))


def upper_to_host(counts: torch.Tensor) -> torch.Tensor:
    """The packed upper triangle of [n, n] on the CPU, in the narrowest integer type.

    The lower triangle may hold anything that is not above the highest count.
    """
    if counts.device.type == "cpu":
        return narrowest(pack_upper(counts))
    return pack_blocks(counts)


def pack_blocks(counts: torch.Tensor) -> torch.Tensor:
    """`upper_to_host`, a block of rows at a time."""
    size, dtype = len(counts), narrowest_type(counts)
    packed = torch.empty(packed_length(size), dtype=dtype)
    for start in range(0, size, _PACKED_ROWS):
        block = to_host(counts[start : start + _PACKED_ROWS, start:], dtype)
        for row, values in enumerate(block):
            first = packed_offset(start + row, size)
            packed[first : first + size - start - row] = values[row:]
    return packed
