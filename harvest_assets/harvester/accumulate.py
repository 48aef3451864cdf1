"""The two large sums of a harvest, over the positions n at which component c fired.

    co-firings        count[c, d] += sum over n of firing[n, c] * firing[n, d]
    output tokens      mass[c, v] += sum over n of firing[n, c] * prob[n, v]

On a CPU both have a sparse and a dense form; the number of firings in a chunk decides. On a GPU
they are matrix products on the tensor cores: integers in int8, probabilities split into bfloat16
parts.
"""

from __future__ import annotations

import warnings

import torch
from torch.nn.functional import pad

from harvest_assets.harvester.firing_list import FiringList
from harvest_assets.harvester.sparse_output_sums import add_sparse_output_sums

# Measured on CPUs: adding one pair of firings takes as long as so many int8 multiply-adds.
_MULTIPLY_ADDS_PER_PAIR = 1000
# Columns that are converted together.
_DENSE_COLUMNS = 4096
# Co-firings are counted in blocks of so many components, from the diagonal on.
_TRIANGLE_ROWS = 1024
# Entries of a product of sparse matrices, small enough for a CPU's cache.
_PAIR_ENTRIES = 1 << 22
# Positions that are summed in float32 before they are added in float64.
_SPLIT_POSITIONS = 4096
# Matrix sides that tensor cores accept: multiples of this, and at least so many.
_SIDE_MULTIPLE = 8
_MIN_SIDE = 32


def add_cofirings(count: torch.Tensor, firing: torch.Tensor, listed: FiringList | None) -> None:
    """Add `firing.T @ firing` to the upper triangle of `count`; the rest is undefined.

    Exact: int32, or float32 below 2^24 positions.

    Args:
        count: int32 or int64 [C, C], changed in place.
        firing: bool [n, C].
        listed: its firings, if they are sparse.
    """
    if listed is not None and count.device.type == "cpu" and _pairs_are_few(listed):
        _add_listed_pairs(count, listed)
        return
    transposed = firing.T
    for start in range(0, len(count), _TRIANGLE_ROWS):
        rows = slice(start, min(start + _TRIANGLE_ROWS, len(count)))
        product = _integer_product(transposed[rows], transposed[start:])
        count[rows, start:] += product.to(count.dtype)


def _pairs_are_few(listed: FiringList) -> bool:
    """Whether adding pair by pair is faster; requires MKL, for products of sparse matrices."""
    pairs = int(listed.per_position.square().sum())
    multiply_adds = listed.n_positions * listed.n_components**2
    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return has_mkl and pairs * _MULTIPLY_ADDS_PER_PAIR < multiply_adds


def _add_listed_pairs(count: torch.Tensor, listed: FiringList) -> None:
    """For each row of the left factor, add the rows of the right factor where it fired."""
    size, n = listed.n_components, listed.n_positions
    component, position = listed.component, listed.position
    positions_of = position[listed.by_component]
    ends = pad(listed.per_component.cumsum(0), (1, 0)).tolist()
    step = max(1, _PAIR_ENTRIES // size)
    for start in range(0, size, step):
        stop = min(start + step, size)
        left = _csr(
            listed.per_component[start:stop],
            positions_of[ends[start] : ends[stop]],
            n,
            torch.float32,
        )
        above = component >= start
        per_position = torch.bincount(position[above], minlength=n)
        right = _csr(per_position, component[above] - start, size - start, torch.float32)
        pairs = torch.zeros(stop - start, size - start)
        _addmm(pairs, left, right)
        count[start:stop, start:] += pairs.to(count.dtype)


def _integer_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left @ right.T` of bool [a, n] and [b, n], exact: int32 from int8, or float32."""
    rows, columns = len(left), len(right)
    on_cpu = left.device.type == "cpu"
    if on_cpu and "AVX512" not in torch.backends.cpu.get_cpu_capability():
        # Without int8 instructions the product of bytes is a plain loop.
        return left.float() @ right.T.float()

    def padded(factor: torch.Tensor) -> torch.Tensor:
        more_rows, more_columns = (
            max(_MIN_SIDE - side, -side % _SIDE_MULTIPLE) for side in factor.shape
        )
        return pad(factor.to(torch.int8), (0, more_columns, 0, more_rows)).contiguous()

    product = torch._int_mm(padded(left), padded(right).T)  # noqa: SLF001
    return product[:rows, :columns]


def add_output_mass(
    mass: torch.Tensor, firing: torch.Tensor, probs: torch.Tensor, listed: FiringList | None
) -> None:
    """Add `firing.T @ probs` to `mass`.

    On a CPU as exact as a plain float64 sum; on a GPU see `add_split_product`.

    Args:
        mass: float64 [C, V], changed in place.
        firing: bool [n, C].
        probs: float [n, V].
        listed: its firings, if they are sparse.
    """
    if mass.device.type != "cpu":
        add_split_product(mass, firing, probs)
        return
    if listed is not None:
        add_sparse_output_sums(mass, probs, listed)
        return
    left = firing.T.double()
    for start in range(0, probs.shape[1], _DENSE_COLUMNS):
        columns = slice(start, start + _DENSE_COLUMNS)
        _addmm(mass[:, columns], left, probs[:, columns].double())


def add_split_product(mass: torch.Tensor, firing: torch.Tensor, probs: torch.Tensor) -> None:
    """Add `firing.T @ probs` to `mass`, with products in bfloat16 that are summed in float32.

        prob = high + low + rest,  high = bfloat16(prob),  low = bfloat16(prob - high),
        |low| <= 2^-9 * prob,  |rest| <= 2^-9 * |low| <= 2^-18 * prob

    The firings are 0 or 1, so no product is rounded; high and low are summed together. With the
    rounding of the float32 sums, over blocks of 4,096 positions, the error stays below 1e-5 of the
    sum.

    Args:
        mass: float64 [C, V], changed in place.
        firing: bool [n, C].
        probs: float [n, V].
    """
    for first in range(0, len(firing), _SPLIT_POSITIONS):
        positions = slice(first, first + _SPLIT_POSITIONS)
        left = firing[positions].T.to(torch.bfloat16).repeat(1, 2)
        for start in range(0, probs.shape[1], _DENSE_COLUMNS):
            columns = slice(start, start + _DENSE_COLUMNS)
            block = probs[positions, columns].float()
            values = pad(block, (0, -block.shape[1] % _SIDE_MULTIPLE))
            high = values.to(torch.bfloat16)
            low = (values - high.float()).to(torch.bfloat16)
            product = _float32_product(left, torch.cat([high, low]))
            mass[:, columns] += product[:, : block.shape[1]]


def _float32_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """A product of bfloat16 matrices, summed and returned in float32."""
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def _csr(
    per_row: torch.Tensor, columns: torch.Tensor, n_columns: int, dtype: torch.dtype
) -> torch.Tensor:
    """A sparse matrix of ones; `columns` are listed row by row."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Ss]parse.*", category=UserWarning)
        return torch.sparse_csr_tensor(
            pad(per_row.cumsum(0), (1, 0)).int(),
            columns.int(),
            torch.ones(len(columns), dtype=dtype),
            (len(per_row), n_columns),
        )


def _addmm(out: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """`out += left @ right` without a temporary product."""
    torch.addmm(out, left, right, out=out)
