"""Triton kernels of the harvester, each with its formula; `passes.py` launches them.

n positions, C components, a vocabulary of V tokens, m firings. Sums are in a fixed order, so that
equal batches give equal bits; atomic additions are of integers only. `ALIGN`, a power of two,
divides the length of rows: the compiler then knows which loads can be wide.
"""

from __future__ import annotations

import triton
import triton.language as tl

from harvest_assets.harvester import priorities

_ROW_STEP = tl.constexpr(priorities.ROW_STEP)
_POSITION_STEP = tl.constexpr(priorities.POSITION_STEP)
_COMPONENT_STEP = tl.constexpr(priorities.COMPONENT_STEP)
_FIRST_FACTOR = tl.constexpr(priorities.FIRST_FACTOR)
_SECOND_FACTOR = tl.constexpr(priorities.SECOND_FACTOR)


@triton.jit
def _as_float64(x: tl.tensor) -> tl.tensor:
    if x.dtype == tl.bfloat16:
        x = x.to(tl.float32)
    return x.to(tl.float64)


@triton.jit
def find_firings(
    ci: tl.tensor,
    threshold: tl.tensor,
    fired: tl.tensor,
    ci_sums: tl.tensor,
    counts: tl.tensor,
    n: tl.tensor,
    n_components: tl.tensor,
    width: tl.tensor,
    n_blocks: tl.tensor,
    ALIGN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """One pass over CI; block b holds the positions from `ROWS * b` on.

    fired[n, c] = ci[n, c] > threshold, bfloat16, zero in the padding from C to `width`
    ci_sums[b, c] = sum over n in b of ci[n, c], in float64
    counts[c, b] = sum over n in b of fired[n, c]
    """
    n_components = n_components // ALIGN * ALIGN
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    block = tl.program_id(1)
    limit = _as_float64(tl.load(threshold))
    total = tl.zeros([BLOCK_C], tl.float64)
    count = tl.zeros([BLOCK_C], tl.int32)
    for first in range(0, ROWS, BLOCK_N):
        row = block * ROWS + first + tl.arange(0, BLOCK_N)[:, None]
        inside = (row < n) & (column[None, :] < n_components)
        at = row.to(tl.int64) * n_components + column[None, :]
        value = _as_float64(tl.load(ci + at, mask=inside, other=0.0))
        fires = (value > limit) & inside
        into = fired + row.to(tl.int64) * width + column[None, :]
        as_bf16 = fires.to(tl.float32).to(tl.bfloat16)
        tl.store(into, as_bf16, mask=(row < n) & (column[None, :] < width))
        total += tl.sum(value, 0)
        count += tl.sum(fires.to(tl.int32), 0)
    real = column < n_components
    tl.store(ci_sums + block.to(tl.int64) * n_components + column, total, mask=real)
    tl.store(counts + column.to(tl.int64) * n_blocks + block, count, mask=real)


@triton.jit
def list_firings(
    fired: tl.tensor,
    first_place: tl.tensor,
    position: tl.tensor,
    component: tl.tensor,
    n: tl.tensor,
    n_components: tl.tensor,
    width: tl.tensor,
    n_blocks: tl.tensor,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """List the firings by component, then by position.

    i = first_place[c, b] + number of firings of c in b before n
    position[i] = n, component[i] = c, wherever fired[n, c]
    """
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    block = tl.program_id(1)
    real = column < n_components
    place = tl.load(first_place + column.to(tl.int64) * n_blocks + block, mask=real, other=0)
    for first in range(0, ROWS, BLOCK_N):
        row = block * ROWS + first + tl.arange(0, BLOCK_N)[:, None]
        inside = (row < n) & real[None, :]
        at = row.to(tl.int64) * width + column[None, :]
        fires = (tl.load(fired + at, mask=inside, other=0.0) > 0).to(tl.int32)
        into = place[None, :] + tl.cumsum(fires, 0) - 1
        tl.store(position + into, row, mask=fires > 0)
        tl.store(component + into, column[None, :], mask=fires > 0)
        place += tl.sum(fires, 0)


@triton.jit
def add_product(
    count: tl.tensor,
    product: tl.tensor,
    n_rows: tl.tensor,
    n_columns: tl.tensor,
    count_stride: tl.tensor,
    product_stride: tl.tensor,
    ALIGN: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """count[r, c] += product[r, c], whole numbers in float32 into integers."""
    count_stride, n_columns = count_stride // ALIGN * ALIGN, n_columns // ALIGN * ALIGN
    row = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None].to(tl.int64)
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    inside = (row < n_rows) & (column < n_columns)
    more = tl.load(product + row * product_stride + column, mask=inside, other=0.0)
    into = count + row * count_stride + column
    before = tl.load(into, mask=inside, other=0)
    tl.store(into, before + more.to(before.dtype), mask=inside)


@triton.jit
def add_output_mass(
    mass: tl.tensor,
    probs: tl.tensor,
    position: tl.tensor,
    starts: tl.tensor,
    vocab: tl.tensor,
    BLOCK_M: tl.constexpr,
    BLOCK_V: tl.constexpr,
) -> None:
    """Gather the rows of the firings of c, which are listed from `starts[c]` to `starts[c + 1]`.

    mass[c, v] += sum over its firings i of probs[position[i], v], in float64

    Programs that run together share a block of columns, so that it is read from the L2 cache.
    """
    c = tl.program_id(0)
    column = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    first = tl.load(starts + c)
    last = tl.load(starts + c + 1)
    total = tl.zeros([BLOCK_V], tl.float64)
    i = first + tl.arange(0, BLOCK_M)
    row = tl.load(position + i, mask=i < last, other=0)
    for _ in range(first, last, BLOCK_M):
        at = row.to(tl.int64)[:, None] * vocab + column[None, :]
        inside = (i < last)[:, None] & (column < vocab)[None, :]
        values = tl.load(probs + at, mask=inside, other=0.0)
        # The next rows' numbers arrive while these rows are summed.
        i += BLOCK_M
        row = tl.load(position + i, mask=i < last, other=0)
        total += tl.sum(_as_float64(values), 0)
    if last > first:
        into = mass + c.to(tl.int64) * vocab + column
        before = tl.load(into, mask=column < vocab, other=0.0)
        tl.store(into, before + total, mask=column < vocab)


@triton.jit
def _shift_right(x: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """Logical shift of a signed number."""
    return (x >> BITS) & ((1 << (64 - BITS)) - 1)


@triton.jit
def _mix(x: tl.tensor) -> tl.tensor:
    x = (x ^ _shift_right(x, 30)) * _FIRST_FACTOR
    x = (x ^ _shift_right(x, 27)) * _SECOND_FACTOR
    return x ^ _shift_right(x, 31)


@triton.jit(do_not_specialize=["n_firings", "first_row", "seed_hash"])
def count_firings(
    position: tl.tensor,
    component: tl.tensor,
    ci: tl.tensor,
    acts: tl.tensor,
    tokens: tl.tensor,
    edges: tl.tensor,
    histogram: tl.tensor,
    input_counts: tl.tensor,
    priority: tl.tensor,
    highest_ci: tl.tensor,
    highest_activation: tl.tensor,
    n_firings: tl.tensor,
    first_row: tl.tensor,
    seed_hash: tl.tensor,
    length: tl.tensor,
    n_components: tl.tensor,
    vocab: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """What is counted per firing i, of component c at position n of rows of S tokens.

    histogram[c, number of edges <= ci[n, c]] += 1
    input_counts[c, tokens[n]] += 1
    priority[i], highest_ci[i], highest_activation[i]: see `firing_priorities`, `highest_ci_first`
    and `highest_activation_first` in `priorities.py`
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n_firings
    n = tl.load(position + i, mask=inside, other=0).to(tl.int64)
    c = tl.load(component + i, mask=inside, other=0).to(tl.int64)
    value = tl.load(ci + n * n_components + c, mask=inside, other=0.0).to(tl.float32)

    # Six halvings find the place among 63 edges.
    bin_ = tl.zeros([BLOCK], tl.int64)
    for halving in tl.static_range(6):
        step = 32 >> halving
        edge = tl.load(edges + bin_ + step - 1)
        bin_ += tl.where(edge <= value, step, 0)
    one = tl.full([BLOCK], 1, histogram.dtype.element_ty)
    tl.atomic_add(histogram + c * 64 + bin_, one, mask=inside, sem="relaxed")
    token = tl.load(tokens + n, mask=inside, other=0)
    one = tl.full([BLOCK], 1, input_counts.dtype.element_ty)
    tl.atomic_add(input_counts + c * vocab + token, one, mask=inside, sem="relaxed")

    row = n // length + first_row
    of_position = _mix(_mix(seed_hash + row * _ROW_STEP) + (n % length) * _POSITION_STEP)
    draw = _shift_right(_mix(of_position + (c + 1) * _COMPONENT_STEP), 1)
    tl.store(priority + i, draw, mask=inside)
    bits = value.to(tl.int32, bitcast=True)
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)
    act = tl.load(acts + n * n_components + c, mask=inside, other=0.0).to(tl.float32)
    magnitude = (act.to(tl.int32, bitcast=True) & 0x7FFFFFFF).to(tl.int64)
    tl.store(highest_ci + i, (-ordered << 31) + (0x7FFFFFFF - magnitude), mask=inside)
    tl.store(highest_activation + i, (-magnitude << 32) + (0x7FFFFFFF - ordered), mask=inside)


@triton.jit(do_not_specialize=["n_windows"])
def copy_windows(
    position: tl.tensor,
    component: tl.tensor,
    tokens: tl.tensor,
    ci: tl.tensor,
    acts: tl.tensor,
    window_tokens: tl.tensor,
    window_ci: tl.tensor,
    window_acts: tl.tensor,
    n_windows: tl.tensor,
    length: tl.tensor,
    n_components: tl.tensor,
    SIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The 2 * SIDE + 1 tokens around firing i, and the values of its component at each.

    at = position[i] + j - SIDE; outside the row of the firing: token -1, values 0
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    j = tl.arange(0, WIDTH)
    n = tl.load(position + i, mask=i < n_windows, other=0).to(tl.int64)
    c = tl.load(component + i, mask=i < n_windows, other=0).to(tl.int64)
    at = (n % length)[:, None] + j[None, :] - SIDE
    wanted = (i < n_windows)[:, None] & (j <= 2 * SIDE)[None, :]
    inside = wanted & (at >= 0) & (at < length)
    near = n[:, None] + j[None, :] - SIDE
    value = near * n_components + c[:, None]
    into = i[:, None] * (2 * SIDE + 1) + j[None, :]
    token = tl.load(tokens + near, mask=inside, other=-1)
    tl.store(window_tokens + into, token.to(tl.int32), mask=wanted)
    strength = tl.load(ci + value, mask=inside, other=0.0)
    tl.store(window_ci + into, strength.to(tl.float32), mask=wanted)
    act = tl.load(acts + value, mask=inside, other=0.0)
    tl.store(window_acts + into, act.to(tl.float32), mask=wanted)
