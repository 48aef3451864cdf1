"""Targets that run a layer in an unusual way, or return more than logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from harvest_assets.decompositions.spd import model as model_module
from harvest_assets.decompositions.spd.model import DecomposedModel, open_model
from harvest_assets.decompositions.spd.nested_config import output_attribute
from harvest_assets.errors import HarvestError
from harvest_assets_tests.decompositions.spd import random_runs
from harvest_assets_tests.decompositions.spd.random_runs import run_config, save_state

VOCAB = 37


class Unusual(nn.Module):
    """A target whose layer runs `times` times, on an input that `reshape` makes."""

    def __init__(self, times: int, reshape, *, by_name: bool = False) -> None:
        super().__init__()
        self.times, self.reshape, self.by_name = times, reshape, by_name
        self.wte = nn.Embedding(VOCAB, 4)
        self.up = nn.Linear(4, 4)
        self.head = nn.Linear(4, VOCAB)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.wte(tokens)
        for _ in range(self.times):
            given = self.reshape(x)
            out = self.up(input=given) if self.by_name else self.up(given)
            x = out.sum() + x
        return self.head(x)


class Several(Unusual):
    """One that returns more than its logits."""

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        logits = super().forward(tokens)
        return logits.sum(), logits, None


def _open_unusual(
    target: nn.Module, folder: Path, monkeypatch, output_attr: str | None = None
) -> DecomposedModel:
    monkeypatch.setattr(model_module, "build_target", lambda *_: target)
    config = run_config([("up", 3)], pretrained_model_output_attr=output_attr)
    state = random_runs.random_state(target, {"up": 3}, [])
    return open_model(config, save_state(state, folder), "cpu")


def test_a_target_may_flatten_positions_or_pass_by_name(tmp_path: Path, monkeypatch):
    torch.manual_seed(0)
    plain = Unusual(1, lambda x: x)
    tokens = torch.arange(10).view(2, 5)
    expected = _open_unusual(plain, tmp_path, monkeypatch)(tokens)
    for target in (
        Unusual(1, lambda x: x.flatten(0, 1)),
        Unusual(1, lambda x: x, by_name=True),
        Unusual(1, lambda x: x.mT.contiguous().mT),
    ):
        target.load_state_dict(plain.state_dict())
        found = _open_unusual(target, tmp_path, monkeypatch)(tokens)
        torch.testing.assert_close(found.ci, expected.ci)
        torch.testing.assert_close(found.component_acts, expected.component_acts)


def test_an_index_of_the_output_may_count_from_its_end(tmp_path: Path, monkeypatch):
    def opened(index: int) -> DecomposedModel:
        torch.manual_seed(0)
        name = output_attribute(tmp_path, index)
        return _open_unusual(Several(1, lambda x: x), tmp_path, monkeypatch, name)

    torch.manual_seed(0)
    tokens = torch.arange(10).view(2, 5)
    expected = _open_unusual(Unusual(1, lambda x: x), tmp_path, monkeypatch)(tokens)
    for index in (1, -2):
        assert torch.equal(opened(index)(tokens).output_probs, expected.output_probs)
    for index in (0, 2, 3, -1, -3, -4):
        with pytest.raises(HarvestError, match=f"'idx_{index}' does not take logits"):
            opened(index)


def test_components_of_unclear_positions_are_not_harvested(tmp_path: Path, monkeypatch):
    for times in (0, 2):
        with pytest.raises(HarvestError, match=f"up runs {times} times"):
            _open_unusual(Unusual(times, lambda x: x), tmp_path, monkeypatch)
    opened = _open_unusual(Unusual(1, lambda x: x[:, :1]), tmp_path, monkeypatch)
    with pytest.raises(HarvestError, match=r"up gets an input of shape \[2, 1, 4\] for tokens"):
        opened(torch.arange(10).view(2, 5))
