from __future__ import annotations

import pytest
from torch import nn
from transformers.pytorch_utils import Conv1D

from harvest_assets.decompositions.spd.decomposed_layers import find_layers
from harvest_assets.decompositions.spd.run_config import ModuleInfo
from harvest_assets.errors import HarvestError


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.ModuleDict({"up": nn.Linear(3, 5), "down": Conv1D(3, 5)})
        self.norm = nn.LayerNorm(3)


class Target(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(7, 3)
        self.h = nn.ModuleList(Block() for _ in range(11))
        self.head = nn.Linear(3, 7)


def _find(*patterns: tuple[str, int]):
    return find_layers(Target(), [ModuleInfo(module_pattern=p, C=c) for p, c in patterns])


def test_flat_order_is_pattern_by_pattern_then_as_the_modules_stand():
    found = _find(("head", 2), ("h.*.up", 4), ("h.1?.mlp.down", 6), ("w*", 1))
    assert [(layer.path, layer.C, layer.d_in, layer.d_out) for layer in found] == [
        ("head", 2, 3, 7),
        *((f"h.{i}.mlp.up", 4, 3, 5) for i in range(11)),
        ("h.10.mlp.down", 6, 5, 3),
        ("wte", 1, 7, 3),
    ]


def test_case_counts():
    with pytest.raises(HarvestError, match="module_pattern 'HEAD' matches no module"):
        _find(("HEAD", 2))


@pytest.mark.parametrize(
    ("patterns", "sentence"),
    [
        ([("h.*.gate", 2)], r"'h\.\*\.gate' matches no module of the target model"),
        ([("h.0.mlp.up", 2), ("h.*.up", 2)], r"h\.0\.mlp\.up is matched twice.*'h\.\*\.up'"),
        ([("h.0.norm", 2)], r"h\.0\.norm \(LayerNorm\)"),
        ([("h.0", 2)], r"h\.0 \(Block\)"),
        ([("*", 2)], r"the whole model \(Target\)"),
    ],
)
def test_what_cannot_be_decomposed_is_reported(patterns: list[tuple[str, int]], sentence: str):
    with pytest.raises(HarvestError, match=sentence):
        _find(*patterns)
