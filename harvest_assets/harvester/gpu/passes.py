"""The kernels as functions of tensors; n positions, C components, a vocabulary of V tokens.

Each runs without waiting for the device, except where the number of firings must be known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import gcd

import torch
import triton
from torch.nn.functional import pad

from harvest_assets.harvester.batch import Batch
from harvest_assets.harvester.gpu import kernels
from harvest_assets.harvester.priorities import seed_hash
from harvest_assets.harvester.reservoir import ExampleTable
from harvest_assets.schemas import ci_bin_edges

# Rows x columns of a block. A thread reads 16 bytes of a row; at these widths the four warps of a
# program share the columns, and each thread sums over the rows by itself.
_FLOAT32_BLOCK = (8, 512)
_BFLOAT16_BLOCK = (4, 1024)
# Positions whose firings one program of the first pass counts.
_COUNTED_ROWS = 128
# Components multiplied together; of two symmetric products only one is computed.
_TRIANGLE_ROWS = 2048
# Rows of firings are padded to this multiple: aligned for the tensor cores and for wide loads.
_ALIGNMENT = 16
_BLOCK_FIRINGS = 256


@dataclass(frozen=True)
class FoundFirings:
    """The m firings at n positions."""

    fired: torch.Tensor  # bfloat16 [n, at least C]: 1 where a component fired, else 0
    ci_sums: torch.Tensor  # float64 [C]
    starts: torch.Tensor  # int32 [C + 1], where each component begins in the two lists
    position: torch.Tensor  # int32 [m], by component, then by position
    component: torch.Tensor  # int32 [m]


def contiguous(batch: Batch) -> Batch:
    """The batch with contiguous tensors, as the kernels read them."""
    names = ("tokens", "ci", "output_probs", "component_acts")
    return replace(batch, **{name: getattr(batch, name).contiguous() for name in names})


def find_firings(ci: torch.Tensor, threshold: float) -> FoundFirings:
    """Find and list the firings; waits for their number.

    Args:
        ci: float [n, C], contiguous; fewer than 2^31 elements.
        threshold: a component fires where its CI is strictly above.
    """
    n, n_components = ci.shape
    width = n_components + -n_components % _ALIGNMENT
    n_blocks = triton.cdiv(n, _COUNTED_ROWS)
    fired = ci.new_empty((n, width), dtype=torch.bfloat16)
    ci_sums = ci.new_empty((n_blocks, n_components), dtype=torch.float64)
    counts = ci.new_empty((n_components, n_blocks), dtype=torch.int32)
    shape, block = (n, n_components, width, n_blocks), (_COUNTED_ROWS, *_BFLOAT16_BLOCK)
    grid = (triton.cdiv(width, block[-1]), n_blocks)
    align = gcd(n_components, _ALIGNMENT)
    kernels.find_firings[grid](
        ci, ci.new_full((), threshold), fired, ci_sums, counts, *shape, align, *block
    )
    places = pad(counts.flatten().cumsum(0, dtype=torch.int32), (1, 0))
    starts = places[::n_blocks].contiguous()
    # Each its own allocation, so that both are aligned.
    m = int(starts[-1])
    position, component = counts.new_empty(m), counts.new_empty(m)
    kernels.list_firings[grid](fired, places, position, component, *shape, *block)
    return FoundFirings(fired, ci_sums.sum(dim=0), starts, position, component)


def add_cofirings(count: torch.Tensor, fired: torch.Tensor) -> None:
    """Add `fired.T @ fired` to the upper triangle of `count`; the rest is undefined.

    Args:
        count: int32 or int64 [C, C], changed in place.
        fired: bfloat16 [n, at least C], of ones and zeros; n at most 2^24, so that float32 is
            exact.
    """
    size = len(count)
    for start in range(0, size, _TRIANGLE_ROWS):
        left, right = fired[:, start : start + _TRIANGLE_ROWS], fired[:, start:]
        product = _float32_product(left.T, right)
        block = count[start : start + _TRIANGLE_ROWS, start:]
        rows, columns = block.shape
        grid = (triton.cdiv(columns, _FLOAT32_BLOCK[1]), triton.cdiv(rows, _FLOAT32_BLOCK[0]))
        align = gcd(size, _ALIGNMENT)
        kernels.add_product[grid](
            block, product, rows, columns, size, right.shape[1], align, *_FLOAT32_BLOCK
        )


def _float32_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def add_output_mass(
    mass: torch.Tensor,
    probs: torch.Tensor,
    found: FoundFirings,
    block: tuple[int, int] | None = None,
) -> None:
    """Add the probabilities at the positions of the firings, all in float64.

    Args:
        mass: float64 [C, V], changed in place.
        probs: float [n, V], contiguous.
        found: the firings at these positions.
        block: rows and columns, powers of two, that are read together.
    """
    n_components, vocab = mass.shape
    block = block or _FLOAT32_BLOCK
    kernels.add_output_mass[(n_components, triton.cdiv(vocab, block[1]))](
        mass, probs, found.position, found.starts, vocab, *block
    )


def count_firings(
    batch: Batch,
    position: torch.Tensor,
    component: torch.Tensor,
    histogram: torch.Tensor,
    input_counts: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Add to the counts per firing and draw the priorities.

    Args:
        batch: contiguous tensors.
        position: int32 [m], flat positions in the batch.
        component: int32 [m].
        histogram: int64 [C, 64], changed in place.
        input_counts: int32 or int64 [C, V], changed in place.

    Returns:
        Priorities, int64 [m], by the field of the state that they select examples for.
    """
    m, (n_components, vocab) = len(position), input_counts.shape
    names = ("sample", "highest_ci", "highest_activation")
    priorities = {name: position.new_empty(m, dtype=torch.int64) for name in names}
    kernels.count_firings[(triton.cdiv(m, _BLOCK_FIRINGS),)](
        position,
        component,
        batch.ci,
        batch.component_acts,
        batch.tokens,
        _edges(position.device),
        histogram,
        input_counts,
        *priorities.values(),
        m,
        batch.first_row,
        seed_hash(batch.settings.sample.seed),
        batch.tokens.shape[1],
        n_components,
        vocab,
        _BLOCK_FIRINGS,
    )
    return priorities


@cache
def _edges(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(ci_bin_edges()).to(device, torch.float32)


def windows(
    batch: Batch, component: torch.Tensor, position: torch.Tensor, priority: torch.Tensor
) -> ExampleTable:
    """The windows around firings, as `Batch.windows` returns them.

    Args:
        batch: contiguous tensors.
        component: integers [m].
        position: integers [m], flat positions in the batch.
        priority: int64 [m].
    """
    m, length = len(position), batch.tokens.shape[1]
    side, width = batch.settings.sample.activation_context_tokens_per_side, batch.settings.window
    token_ids = position.new_empty((m, width), dtype=torch.int32)
    ci_values, acts = (token_ids.new_empty((m, width), dtype=torch.float32) for _ in range(2))
    # About 2,048 tokens a program.
    padded = triton.next_power_of_2(width)
    block = max(1, 2048 // padded)
    kernels.copy_windows[(triton.cdiv(m, block),)](
        position,
        component,
        batch.tokens,
        batch.ci,
        batch.component_acts,
        token_ids,
        ci_values,
        acts,
        m,
        length,
        batch.settings.n_components,
        side,
        padded,
        block,
    )
    row = position.div(length, rounding_mode="floor")
    return ExampleTable(
        component=component.long(),
        priority=priority,
        row=row.long() + batch.first_row,
        position=(position - row * length).int(),
        token_ids=token_ids,
        ci_values=ci_values,
        component_acts=acts,
    )
