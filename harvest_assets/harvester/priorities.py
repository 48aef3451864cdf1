"""Pseudo-random priorities of firings.

A firing's priority depends on (seed, row, position, component) and on nothing else, so a sample of
the firings of lowest priority does not depend on how the work was cut. The mixing function is the
finalizer of SplitMix64 (Steele, Lea & Flood 2014, https://doi.org/10.1145/2660193.2660195).
"""

from __future__ import annotations

import torch

_MASK = (1 << 64) - 1
# All bits of a float32 but its sign.
_MAX_MAGNITUDE = (1 << 31) - 1
# What `_ordered` makes of it.
_MINUS_INFINITY = -0x7F800001


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


# 2^64 / golden ratio, and two more odd constants without visible pattern, one per coordinate.
ROW_STEP = _signed(0x9E3779B97F4A7C15)
POSITION_STEP = _signed(0xD1342543DE82EF95)
COMPONENT_STEP = _signed(0xDA942042E4DD58B5)
FIRST_FACTOR = _signed(0xBF58476D1CE4E5B9)
SECOND_FACTOR = _signed(0x94D049BB133111EB)


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shift_right(x, 30)) * FIRST_FACTOR
    x = (x ^ _shift_right(x, 27)) * SECOND_FACTOR
    return x ^ _shift_right(x, 31)


def seed_hash(seed: int) -> int:
    """The hash that those of the positions start from; an int64."""
    return int(_mix(torch.tensor(_signed(seed), dtype=torch.int64)))


def position_hashes(seed: int, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """One hash per token position, the common part of the priorities of all that fires there.

    Args:
        seed: of the sample.
        rows: int64 [n], rows of the whole harvest.
        positions: int64 [n], positions in those rows.

    Returns:
        int64 [n].
    """
    return _mix(_mix(seed_hash(seed) + rows * ROW_STEP) + positions * POSITION_STEP)


def firing_priorities(hashes: torch.Tensor, components: torch.Tensor) -> torch.Tensor:
    """Priorities of firings; lower ones are sampled first.

    Args:
        hashes: int64 [n], from `position_hashes`, of the position of each firing.
        components: int64 [n], flat component indices.

    Returns:
        int64 [n], uniform in [0, 2^63).
    """
    return _shift_right(_mix(hashes + (components + 1) * COMPONENT_STEP), 1)


def highest_ci_first(ci: torch.Tensor, acts: torch.Tensor) -> torch.Tensor:
    """Priorities under which the highest CI comes first, of equal ones the largest activation.

    Args:
        ci: float32 [n], no NaN.
        acts: float32 [n], no NaN; their signs do not count.

    Returns:
        int64 [n]: the order-reversed CI above, the order-reversed |activation| in 31 bits below.
    """
    return (-_ordered(ci) << 31) + (_MAX_MAGNITUDE - _magnitude(acts))


def highest_activation_first(ci: torch.Tensor, acts: torch.Tensor) -> torch.Tensor:
    """Priorities under which the largest |activation| comes first, of equal ones the highest CI.

    Args:
        ci: float32 [n], no NaN.
        acts: float32 [n], no NaN; their signs do not count.

    Returns:
        int64 [n]: the order-reversed |activation| above, the order-reversed CI in 32 bits below.
    """
    return (-_magnitude(acts) << 32) + (_MAX_MAGNITUDE - _ordered(ci))


def lowest_ci(bounds: torch.Tensor) -> torch.Tensor:
    """The lowest CI that a priority of `highest_ci_first` up to a bound can have, float32."""
    ordered = (-(bounds >> 31)).clamp(min=_MINUS_INFINITY).to(torch.int32)
    return torch.where(ordered < 0, ordered ^ _MAX_MAGNITUDE, ordered).view(torch.float32)


def lowest_activation(bounds: torch.Tensor) -> torch.Tensor:
    """The same |activation| for `highest_activation_first`, float32."""
    return (-(bounds >> 32)).clamp(min=0).to(torch.int32).view(torch.float32)


def _ordered(values: torch.Tensor) -> torch.Tensor:
    """Integers in the order of the values, int64 of 32 bits."""
    bits = values.contiguous().view(torch.int32)
    # Negative floats order backwards by their bits; flipping all but the sign corrects that.
    return torch.where(bits < 0, bits ^ _MAX_MAGNITUDE, bits).to(torch.int64)


def _magnitude(values: torch.Tensor) -> torch.Tensor:
    """Integers in the order of the absolute values, int64 from 0 to 2^31 - 1."""
    return (values.contiguous().view(torch.int32) & _MAX_MAGNITUDE).to(torch.int64)
