"""The noise with which `sampling: binomial` runs were trained, on request.

Training put `1.05 x - 0.05 u` in the place of the CI function's raw output x, with u uniform in
[0, 1). Here u is drawn from the tokens of its row, so that a harvest can be repeated, and cut into
shards, without a change.
"""

from __future__ import annotations

import hashlib

import torch

_SCALE = 0.05


def row_noise(tokens: torch.Tensor, n_components: int, device: torch.device) -> torch.Tensor:
    """Uniform u, a function of each row's tokens alone (and of the kind of device).

    Args:
        tokens: int64 [B, S].
        n_components: of all layers.
        device: where it is drawn.

    Returns:
        float32 [B, S, n_components] in [0, 1).
    """
    generator = torch.Generator(device)
    rows = []
    for row in tokens.cpu().numpy():
        digest = hashlib.sha256(row.tobytes()).digest()
        generator.manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        rows.append(torch.rand((len(row), n_components), generator=generator, device=device))
    return torch.stack(rows)


def noisy(raw_ci: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """What training made of the CI functions' raw output."""
    return (1 + _SCALE) * raw_ci - _SCALE * u
