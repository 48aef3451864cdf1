"""Lower-leaky causal importance from the raw output x of a CI function.

Some of these overshoot [0, 1]; nothing is clipped beyond the formula.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

_UPPER_LEAK = 0.01
_SWISH_SHARPNESS = 10.0


def _clamped(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(0, 1)


def _upper_leaky(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 1, 1 + _UPPER_LEAK * (x - 1), x.clamp(0, 1))


def _swish(x: torch.Tensor) -> torch.Tensor:
    k = _SWISH_SHARPNESS
    return 1 - x + (x - 1) * torch.sigmoid(k * (1 - x)) + x * torch.sigmoid(k * x)


def _half_sin(x: torch.Tensor) -> torch.Tensor:
    return 0.5 + 0.5 * x.sin()


# sigmoid_type -> the function of x that gives the lower-leaky causal importance
LOWER_LEAKY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "leaky_hard": _clamped,
    "hard": _clamped,
    "normal": torch.sigmoid,
    "upper_leaky_hard": _upper_leaky,
    "swish_hard": _swish,
    "half_sin": _half_sin,
}
