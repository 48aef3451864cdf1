"""Examples as JSON text, compiled, without the GIL.

A float32 gets the fewest digits that read back as the same value, and of those the closest ones:
Raffaello Giulietti's Schubfach ("The Schubfach way to render doubles", 2020), for 32 bits.

1. The value is c 2^q. The decimals that round to it lie between (4 c - 2) 2^(q - 2) and
   (4 c + 2) 2^(q - 2); from (4 c - 1) on where the next lower value is only half as far away.
2. With k = floor(log10(2^q)), these and 4 c are divided by 10^k. The last bit of a quotient is set
   where something was cut off, so it compares with integers as the exact one does.
3. The value becomes the multiple of 10^(k + 1) in the interval, if there is just one; else the
   closest multiple of 10^k.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harvest_assets.harvester.compiled import compiled
from harvest_assets.harvester.reservoir import ExampleTable

_MIN_POWER, _MAX_POWER = -31, 45


def _leading_bits(power: int) -> int:
    """The 64 leading bits of 10^power, rounded up."""
    if power < 0:
        divisor: int = 10**-power
        return -(-(1 << (63 + divisor.bit_length())) // divisor)
    value: int = 10**power
    return -((-value << 64) >> value.bit_length())


# Halves of 32 bits, so that no product exceeds an int64.
_HIGH, _LOW = (
    np.array(half, dtype=np.int64)
    for half in zip(
        *(divmod(_leading_bits(k), 1 << 32) for k in range(_MIN_POWER, _MAX_POWER + 1)),
        strict=True,
    )
)
_OPENING, _CI, _ACTS, _CLOSING = (
    np.frombuffer(text, dtype=np.uint8)
    for text in (b'{"token_ids":[', b'],"ci_values":[', b'],"component_acts":[', b"]}")
)
_COMMA, _MINUS, _PLUS, _POINT, _ZERO, _E = (ord(character) for character in ",-+.0e")
# More digits before the point, or more zeros after it, and an exponent is written.
_MAX_BEFORE_POINT, _MAX_ZEROS = 13, 5
_MAGNITUDE, _INFINITE = 0x7FFFFFFF, 0x7F800000
_MAX_INTEGER, _MAX_FLOAT = len("-2147483648,"), len("-1.17549435e-38,")


def examples_text(examples: ExampleTable) -> bytes:
    """The examples as a JSON list.

    Raises:
        ValueError: a value is not finite.
    """
    n, width = examples.token_ids.shape
    frame = len(_OPENING) + len(_CI) + len(_ACTS) + len(_CLOSING) + 1
    out = np.empty(2 + n * (frame + width * (_MAX_INTEGER + 2 * _MAX_FLOAT)), dtype=np.uint8)
    tokens, *floats = (
        column.contiguous().numpy()
        for column in (examples.token_ids, examples.ci_values, examples.component_acts)
    )
    length, finite = _put_examples(out, tokens, *(values.view(np.int32) for values in floats))
    if not finite:
        raise ValueError("an example has a value that is not finite")
    return out[:length].tobytes()


@compiled
def _put_examples(
    out: NDArray[np.uint8],
    token_ids: NDArray[np.int32],
    ci_bits: NDArray[np.int32],
    act_bits: NDArray[np.int32],
) -> tuple[int, bool]:
    """Write the list, and return its length and whether all values are finite."""
    out[0] = ord("[")
    at, highest = 1, 0
    for row in range(len(token_ids)):
        if row:
            out[at] = _COMMA
            at += 1
        at = _put_text(out, at, _OPENING)
        for token in token_ids[row]:
            at = _put_integer(out, at, np.int64(token))
            out[at] = _COMMA
            at += 1
        at = _put_text(out, at - 1, _CI)
        for place in range(ci_bits.shape[1]):
            highest = max(highest, ci_bits[row, place] & _MAGNITUDE)
            highest = max(highest, act_bits[row, place] & _MAGNITUDE)
        at = _put_floats(out, at, ci_bits[row])
        at = _put_text(out, at, _ACTS)
        at = _put_floats(out, at, act_bits[row])
        at = _put_text(out, at, _CLOSING)
    out[at] = ord("]")
    return at + 1, highest < _INFINITE


@compiled
def _put_floats(out: NDArray[np.uint8], at: int, bits: NDArray[np.int32]) -> int:
    """Write float32 values, given by their bits, with commas between them."""
    for value in bits:
        at = _put_float(out, at, np.int64(value))
        out[at] = _COMMA
        at += 1
    return at - 1


@compiled
def _put_float(out: NDArray[np.uint8], at: int, bits: Any) -> int:
    if bits < 0:
        out[at] = _MINUS
        at += 1
        bits &= _MAGNITUDE
    if bits == 0:
        return _put_zeros(out, at, 3, 1)
    digits, exponent = _shortest(bits)
    n = _n_digits(digits)
    before_point = n + exponent
    scientific = before_point > _MAX_BEFORE_POINT or before_point < -_MAX_ZEROS
    leading = 0 if scientific or before_point > 0 else 2 - before_point
    trailing = 0 if scientific or exponent < 0 else exponent + 2
    if leading:
        at = _put_zeros(out, at, leading, 1)
        before_point = n
    at = _put_digits(out, at, digits, n, 1 if scientific else before_point)
    if trailing:
        return _put_zeros(out, at, trailing, exponent)
    if scientific:
        out[at] = _E
        out[at + 1] = _PLUS if before_point > 0 else _MINUS
        return _put_integer(out, at + 2, abs(before_point - 1))
    return at


@compiled
def _put_zeros(out: NDArray[np.uint8], at: int, n: int, point: int) -> int:
    """Write n characters: zeros, and a point after `point` of them."""
    for place in range(n):
        out[at + place] = _POINT if place == point else _ZERO
    return at + n


@compiled
def _put_integer(out: NDArray[np.uint8], at: int, value: Any) -> int:
    if value < 0:
        out[at] = _MINUS
        at += 1
        value = -value
    n = _n_digits(value)
    return _put_digits(out, at, value, n, n)


@compiled
def _put_digits(out: NDArray[np.uint8], at: int, digits: int, n: int, before_point: int) -> int:
    """Write n digits, with a point unless all of them come before it."""
    end = place = at + n + (before_point < n)
    for left in range(n, 0, -1):
        if left == before_point < n:
            place -= 1
            out[place] = _POINT
        rest = _tenth(digits)
        place -= 1
        out[place] = _ZERO + digits - 10 * rest
        digits = rest
    return end


@compiled
def _put_text(out: NDArray[np.uint8], at: int, text: NDArray[np.uint8]) -> int:
    for place in range(len(text)):
        out[at + place] = text[place]
    return at + len(text)


@compiled
def _tenth(value: int) -> int:
    """`value // 10` for values up to 2^31, faster than division."""
    return (value * 0xCCCCCCCD) >> 35


@compiled
def _n_digits(value: int) -> int:
    n, bound = 1, 10
    while value >= bound:
        n, bound = n + 1, bound * 10
    return n


@compiled
def _shortest(bits: int) -> tuple[int, int]:
    """Digits, not ending in 0, and the exponent of ten of a positive float32."""
    digits, exponent = _closest(bits)
    while True:
        tenth = _tenth(digits)
        if digits != 10 * tenth:
            return digits, exponent
        digits, exponent = tenth, exponent + 1


@compiled
def _closest(bits: int) -> tuple[int, int]:
    fraction, biased = bits & 0x7FFFFF, bits >> 23
    c = fraction | 0x800000 if biased else fraction
    q = max(biased, 1) - 150
    half_below = fraction == 0 and biased > 1
    # floor(log10(2^q)), or of 3/4 2^q.
    k = (q * 1262611 - (524031 if half_below else 0)) >> 22
    shift = q + ((-k * 1741647) >> 19) + 1
    open_ends = c & 1  # ties are rounded to even
    low = _divided(k, (4 * c - 2 + half_below) << shift) + open_ends
    value = _divided(k, 4 * c << shift)
    high = _divided(k, (4 * c + 2) << shift) - open_ends
    floor = value >> 2
    tens = _tenth(floor)
    lower, upper = low <= 40 * tens, 40 * tens + 40 <= high
    if tens and lower != upper:
        return tens + upper, k + 1
    lower, upper = low <= 4 * floor, 4 * floor + 4 <= high
    if lower != upper:
        return floor + upper, k
    middle = 4 * floor + 2
    return floor + (value > middle or (value == middle and floor & 1 == 1)), k


@compiled
def _divided(k: int, value: int) -> int:
    """`value` divided by 10^k and scaled, its last bit set if it was not a whole number."""
    low = _LOW[-k - _MIN_POWER] * value
    high = _HIGH[-k - _MIN_POWER] * value + (low >> 32)
    return int((high >> 32) | ((high & 0xFFFFFFFF) > 1))
