"""`global_reverse_residual`: groups of layers write to and read from a residual of their own.

With r = 0 at first, for each group but the last in the order of the config:

1. r += Linear(inputs of the group side by side);
2. with attention r += attention(norm(r)); then r += transition(norm(r));
3. raw values of the group are reader(norm(r)).

The last group does steps 1 and 3. Runs older than the setting `transition_hidden_dim` did step 3
before step 2. The layers of a group are those that its patterns match, pattern by pattern, each in
flat order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch

from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.decompositions.spd.ci_config import GlobalCI
from harvest_assets.decompositions.spd.ci_functions.attention import RowAttention, rms
from harvest_assets.decompositions.spd.ci_functions.global_function import (
    GlobalCIFunction,
    cuts,
    total_width,
)
from harvest_assets.decompositions.spd.ci_functions.linear_maps import LinearMaps, Shapes
from harvest_assets.decompositions.spd.decomposed_layers import DecomposedLayer
from harvest_assets.errors import HarvestError

_Map = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _Group:
    """What one group of layers does to the residual r [B, S, R]."""

    columns: slice  # its layers' inputs among those of all layers
    write: _Map
    transitions: tuple[_Map, ...]  # each added to r
    read: _Map


def open_reverse_residual(
    layers: Sequence[DecomposedLayer],
    config: GlobalCI,
    checkpoint: Checkpoint,
    device: torch.device,
) -> GlobalCIFunction:
    """The function with its trained weights.

    Raises:
        HarvestError: the config lacks its sizes, a layer is in no group or in several, or weights
            are missing, superfluous, or of other shapes.
    """
    if not checkpoint.has_global_ci("_reader_norms."):
        raise HarvestError(
            f"{checkpoint.path} has a global_reverse_residual CI function without _reader_norms, "
            "as it was before 2026-01-22; that form is not known. Use a run of a later date."
        )
    grouped = _grouped(layers, config)
    ordered = [layer for group in grouped.values() for layer in group]
    names = list(grouped)
    shapes: Shapes = {}
    for name in names:
        shapes |= _shapes(name, grouped[name], config, is_last=name == names[-1])
    weights = checkpoint.global_ci_weights(shapes, device)
    columns = cuts([total_width(group) for group in grouped.values()])
    groups = [
        _open(name, grouped[name], config, weights, where, is_last=name == names[-1])
        for name, where in zip(names, columns, strict=True)
    ]
    width = config.required("d_resid_ci_fn")

    def raw_ci(given: torch.Tensor) -> torch.Tensor:
        r = given.new_zeros((*given.shape[:-1], width))
        raw = []
        for group in groups:
            r = r + group.write(given[..., group.columns])
            if config.reads_before_transition:
                raw.append(group.read(r))
            for transition in group.transitions:
                r = r + transition(r)
            if not config.reads_before_transition:
                raw.append(group.read(r))
        return torch.cat(raw, dim=-1)

    attention = config.transition_attn_config
    return GlobalCIFunction(ordered, raw_ci, attention.max_len if attention else None)


def _grouped(
    layers: Sequence[DecomposedLayer], config: GlobalCI
) -> dict[str, list[DecomposedLayer]]:
    """The layers of each group, pattern by pattern, by its name in the checkpoint's keys."""
    group_of: dict[str, str] = {}
    groups: dict[str, list[DecomposedLayer]] = {}
    for block in config.required("block_groups"):
        key = block.name.replace(".", "-")
        if key in groups:
            raise HarvestError(
                f"block_groups: {block.name!r} is the name of two groups (`.` counts as `-`); "
                "each must have its own."
            )
        groups[key] = []
        for pattern in block.patterns:
            matched = [layer for layer in layers if fnmatchcase(layer.path, pattern)]
            if not matched:
                raise HarvestError(
                    f"block_groups: {pattern!r} of {block.name!r} matches no decomposed layer."
                )
            for layer in matched:
                if layer.path in group_of:
                    raise HarvestError(
                        f"block_groups: {layer.path} is matched in {group_of[layer.path]!r} and "
                        f"again in {block.name!r}; a layer must be in exactly one group, once."
                    )
                group_of[layer.path] = block.name
            groups[key] += matched
    for layer in layers:
        if layer.path not in group_of:
            raise HarvestError(
                f"block_groups: {layer.path} is in no group; a layer must be in exactly one."
            )
    return groups


def _widths(group: Sequence[DecomposedLayer], config: GlobalCI) -> list[int]:
    """Of the reader."""
    hidden = config.required("reader_hidden_dims")
    return [config.required("d_resid_ci_fn"), *hidden, sum(layer.C for layer in group)]


def _shapes(
    name: str, group: Sequence[DecomposedLayer], config: GlobalCI, *, is_last: bool
) -> Shapes:
    width = config.required("d_resid_ci_fn")
    shapes: Shapes = {
        f"_inp_projectors.{name}.W": (total_width(group), width),
        f"_inp_projectors.{name}.b": (width,),
        f"_reader_norms.{name}.weight": (width,),
    }
    shapes |= LinearMaps.shapes(f"_readers.{name}.", _widths(group, config))
    if is_last:
        return shapes
    shapes[f"_transition_norms.{name}.weight"] = (width,)
    hidden = config.transition_hidden_dim
    if hidden is None:
        shapes[f"_transitions.{name}.W"] = (width, width)
        shapes[f"_transitions.{name}.b"] = (width,)
    else:
        shapes |= LinearMaps.shapes(f"_transitions.{name}.", [width, hidden, width])
    attention = config.transition_attn_config
    if attention is not None:
        shapes[f"_attn_norms.{name}.weight"] = (width,)
        shapes |= RowAttention.shapes(f"_attn_transitions.{name}.", width, attention.n_heads)
    return shapes


def _open(
    name: str,
    group: Sequence[DecomposedLayer],
    config: GlobalCI,
    weights: dict[str, torch.Tensor],
    columns: slice,
    *,
    is_last: bool,
) -> _Group:
    width, hidden = config.required("d_resid_ci_fn"), config.transition_hidden_dim
    transitions: list[_Map] = []
    if not is_last and config.transition_attn_config is not None:
        attention = RowAttention(
            f"_attn_transitions.{name}.", config.transition_attn_config.n_heads, weights
        )
        transitions.append(_of_norm(weights[f"_attn_norms.{name}.weight"], attention))
    if not is_last:
        transition = (
            _linear(f"_transitions.{name}", weights)
            if hidden is None
            else LinearMaps(f"_transitions.{name}.", [width, hidden, width], weights)
        )
        transitions.append(_of_norm(weights[f"_transition_norms.{name}.weight"], transition))
    reader = LinearMaps(f"_readers.{name}.", _widths(group, config), weights)
    return _Group(
        columns,
        _linear(f"_inp_projectors.{name}", weights),
        tuple(transitions),
        _of_norm(weights[f"_reader_norms.{name}.weight"], reader),
    )


def _linear(name: str, weights: dict[str, torch.Tensor]) -> _Map:
    return lambda x: x @ weights[f"{name}.W"] + weights[f"{name}.b"]


def _of_norm(weight: torch.Tensor, of: _Map) -> _Map:
    return lambda r: of(rms(r, weight))
