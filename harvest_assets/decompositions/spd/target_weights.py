"""Putting the checkpoint's weights into a target model that was built without any."""

from __future__ import annotations

import torch
from torch import nn

from harvest_assets.decompositions.spd.checkpoint import TARGET, Checkpoint
from harvest_assets.errors import HarvestError

# Masks and rotary tables that older versions of `transformers` saved beside the weights.
_SAVED_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def load_target_weights(target: nn.Module, checkpoint: Checkpoint, device: torch.device) -> None:
    """Put the target's weights in, float32, and move all of it to the device.

    Tied weights are in a checkpoint once or several times; they stay tied.

    Args:
        target: its parameters may be empty.
        checkpoint: holds its weights; on the CPU they stay mapped from there.
        device: where it will compute.

    Raises:
        HarvestError: a weight is missing, unknown to the target, or of another shape, or tied
            weights differ.
    """
    weights = checkpoint.target_weights()
    tied_names: dict[int, list[str]] = {}
    own = target.state_dict(keep_vars=True)
    for name, value in own.items():
        tied_names.setdefault(id(value), []).append(name)
    for names in tied_names.values():
        weight = _weight(names, own[names[0]], checkpoint).to(device)
        if weight.is_floating_point():
            weight = weight.float()
        if isinstance(own[names[0]], nn.Parameter):
            weight = nn.Parameter(weight, requires_grad=False)
        for name in names:
            module, _, attribute = name.rpartition(".")
            setattr(target.get_submodule(module), attribute, weight)
    unknown = [name for name in weights if name not in own and not name.endswith(_SAVED_BUFFERS)]
    if unknown:
        raise HarvestError(
            f"{checkpoint.path} has {TARGET}{unknown[0]}, which the target model has not."
        )
    target.to(device)


def _weight(names: list[str], own: torch.Tensor, checkpoint: Checkpoint) -> torch.Tensor:
    """The one weight that has these names in the target, where it is like `own`."""
    keys = [TARGET + name for name in names if TARGET + name in checkpoint.state]
    if not keys:
        raise HarvestError(
            f"{checkpoint.path} lacks {TARGET}{names[0]}, which the target model has."
        )
    for key in keys:
        checkpoint.check_shape(key, tuple(own.shape))
        if own.is_floating_point():
            checkpoint.check_floating(key)
    first, *others = (checkpoint.state[key] for key in keys)
    for key, other in zip(keys[1:], others, strict=True):
        if other.data_ptr() != first.data_ptr() and not torch.equal(first, other):
            raise HarvestError(
                f"{checkpoint.path}: {keys[0]} and {key} differ, but the target model ties them."
            )
    return first
