"""Integer tensors in the narrowest type that holds them, and the packed upper triangle."""

from __future__ import annotations

import torch

# From narrow to wide.
COUNT_TYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)


def add_occurrences(totals: torch.Tensor, index: torch.Tensor) -> None:
    """Add to `totals`, int64 [n], how often each of its places is in `index`, integers [m]."""
    if index.is_cuda:
        # `bincount` would wait for the device.
        one = torch.ones((), dtype=totals.dtype, device=totals.device)
        totals.index_add_(0, index, one.expand(len(index)))
    else:
        totals += torch.bincount(index, minlength=len(totals))


def narrowest_type(counts: torch.Tensor) -> torch.dtype:
    """The smallest integer type that holds the counts (not negative) exactly."""
    highest = int(counts.max()) if counts.numel() else 0
    return next(dtype for dtype in COUNT_TYPES if highest <= torch.iinfo(dtype).max)


def narrowest(counts: torch.Tensor) -> torch.Tensor:
    """The same counts (not negative) in the smallest integer type that is exact."""
    return counts.to(narrowest_type(counts))


def packed_length(size: int) -> int:
    """Entries on and above the diagonal of a [size, size] matrix."""
    return size * (size + 1) // 2


def packed_offset(row: int, size: int) -> int:
    """Where row `row`, from its diagonal entry on, begins in the packed upper triangle."""
    return row * size - row * (row - 1) // 2


def pack_upper(matrix: torch.Tensor) -> torch.Tensor:
    """The entries on and above the diagonal, row after row: [n, n] -> [n (n + 1) / 2]."""
    size = len(matrix)
    packed = matrix.new_empty(packed_length(size))
    for row in range(size):
        start = packed_offset(row, size)
        packed[start : start + size - row] = matrix[row, row:]
    return packed


def unpack_rows(packed: torch.Tensor, size: int, start: int, stop: int) -> torch.Tensor:
    """Rows of the upper triangle: [stop - start, size], zero below the diagonal."""
    rows = packed.new_zeros((stop - start, size))
    add_upper(rows, packed, start)
    return rows


def add_upper(rows: torch.Tensor, packed: torch.Tensor, start: int) -> None:
    """Add rows of the packed upper triangle, from row `start` on, to `rows` [n, size]."""
    size = rows.shape[1]
    for place, row in enumerate(rows, start):
        offset = packed_offset(place, size)
        row[place:] += packed[offset : offset + size - place]


def packed_row(packed: torch.Tensor, size: int, row: int) -> torch.Tensor:
    """One row of the symmetric matrix whose upper triangle is packed, [size]."""
    above = torch.arange(row)
    column = above * size - above * (above - 1) // 2 + row - above
    start = packed_offset(row, size)
    return torch.cat([packed[column], packed[start : start + size - row]])


def mirror(upper: torch.Tensor, filled: torch.Tensor | None = None, block: int = 1024) -> None:
    """Fill the lower triangle of a [n, n] matrix from its upper one, in place, tile by tile.

    Args:
        upper: of the matrix; below the diagonal are zeros.
        filled: bool [n], which rows and columns are not all zero; None: all may not be.
        block: rows and columns of a tile.
    """
    size = len(upper)
    tiles: list[slice | torch.Tensor] = [slice(i, i + block) for i in range(0, size, block)]
    if filled is not None and not filled.all():
        places = filled.nonzero().squeeze(1)
        tiles = [places[i : i + block] for i in range(0, len(places), block)]
    for number, rows in enumerate(tiles):
        upper[_tile(rows, rows)] += upper[_tile(rows, rows)].triu(1).T
        for columns in tiles[number + 1 :]:
            upper[_tile(columns, rows)] = upper[_tile(rows, columns)].T


def _tile(
    rows: slice | torch.Tensor, columns: slice | torch.Tensor
) -> tuple[slice | torch.Tensor, slice | torch.Tensor]:
    """The index of a tile."""
    return (rows if isinstance(rows, slice) else rows[:, None]), columns
