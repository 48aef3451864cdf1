from __future__ import annotations

import os
import random
import re
import warnings
from pathlib import Path

import pytest
import torch

from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.errors import HarvestError

STATE = {
    "target_model.a.weight": torch.ones(3, 2),
    "_components.h-0-a.V": torch.ones(2, 4),
    "_components.h-0-a.U": torch.ones(4, 3),
    "_components.h-0-a.bias": torch.ones(3),
    "_ci_fns.h-0-a.layers.0.W": torch.ones(2, 4),
    "_ci_fns.h-0-a.layers.0.b": torch.ones(4),
    "_components.h-0-a-b.V": torch.zeros(2, 1),
    "_components.h-0-a-b.U": torch.zeros(1, 3),
}


class Harmful:
    def __reduce__(self):
        return (os.system, ("touch harmed",))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model_1.pth"
    torch.save(STATE, path)
    return path


def _message(path: Path) -> str:
    with pytest.raises(HarvestError) as caught:
        Checkpoint.open(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_parts_are_found_by_the_layers_path(path: Path):
    opened = Checkpoint.open(path)
    assert list(opened.target_weights()) == ["a.weight"]
    v, u = opened.component_matrices("h.0.a", d_in=2, n_components=4, d_out=3)
    assert (v.shape, u.shape) == ((2, 4), (4, 3))
    shapes = {"layers.0.W": (2, 4), "layers.0.b": (4,)}
    assert set(opened.ci_weights("h.0.a", shapes)) == set(shapes)
    # `h.0.a-b` and `h.0.a` share a beginning, but not their keys.
    v, _ = opened.component_matrices("h.0.a-b", d_in=2, n_components=1, d_out=3)
    assert v.sum() == 0


@pytest.mark.parametrize("name", ["transformer.wte", "model.embed_tokens", "gpt_neox.embed_in"])
def test_the_embeddings_of_tokens_are_found_by_name(tmp_path: Path, name: str):
    matrix = torch.arange(10.0).reshape(5, 2)
    file = tmp_path / "model_1.pth"
    torch.save({**STATE, f"target_model.{name}.weight": matrix}, file)
    assert torch.equal(Checkpoint.open(file).token_embeddings(), matrix)


def test_a_checkpoint_without_embeddings_is_named(path: Path):
    with pytest.raises(HarvestError, match=re.escape(str(path))):
        Checkpoint.open(path).token_embeddings()


OLD = {
    "patched_model.wte.original.weight": "target_model.wte.weight",
    "patched_model.h.0.a.original.weight": "target_model.h.0.a.weight",
    "patched_model.h.0.a.original.bias": "target_model.h.0.a.bias",
    "patched_model.h.0.norm.weight": "target_model.h.0.norm.weight",
    "patched_model.h.0.a.components.V": "_components.h-0-a.V",
    "patched_model.h.0.a.components.U": "_components.h-0-a.U",
    "patched_model.h.0.a.components.bias": "_components.h-0-a.bias",
    "target_model.h.0.b-c.components.U": "_components.h-0-b-c.U",
    "patched_model.h.0.a.pre_identity.components.V": "_components.h-0-a-pre_identity.V",
    "_gates.h-0-a.layers.0.W": "_ci_fns.h-0-a.layers.0.W",
    "_ci_fns.h-0-b-c.layers.0.W": "_ci_fns.h-0-b-c.layers.0.W",
    "target_model.original.weight": "target_model.original.weight",
}


def test_old_spellings_of_keys_are_read(tmp_path: Path):
    path = tmp_path / "model_1.pth"
    torch.save({key: torch.full((2,), float(i)) for i, key in enumerate(OLD)}, path)
    state = Checkpoint.open(path).state
    assert {key: int(value[0]) for key, value in state.items()} == {
        new: i for i, new in enumerate(OLD.values())
    }


def test_a_tensor_in_two_spellings_is_reported(tmp_path: Path):
    path = tmp_path / "model_1.pth"
    torch.save({**STATE, "patched_model.h.0.a.components.V": torch.ones(2, 4)}, path)
    assert "_components.h-0-a.V twice" in _message(path)


def test_layers_that_the_config_does_not_name_are_reported(path: Path):
    opened = Checkpoint.open(path)
    opened.check_layers(["h.0.a", "h.0.a.b"])
    with pytest.raises(HarvestError, match=r"_components\.h-0-a-b\.V, but no pattern"):
        opened.check_layers(["h.0.a"])


def test_wrong_tensors_are_named_with_both_shapes(path: Path):
    opened = Checkpoint.open(path)
    with pytest.raises(HarvestError, match=r"_components\.h-0-a\.V .* \[2, 4\], not \[2, 5\]"):
        opened.component_matrices("h.0.a", d_in=2, n_components=5, d_out=3)
    with pytest.raises(HarvestError, match=r"_components\.h-0-a\.U .* \[4, 3\], not \[4, 9\]"):
        opened.component_matrices("h.0.a", d_in=2, n_components=4, d_out=9)
    with pytest.raises(HarvestError, match=r"lacks _components\.h-7-a\.V"):
        opened.component_matrices("h.7.a", d_in=2, n_components=4, d_out=3)
    with pytest.raises(HarvestError, match=r"has _ci_fns\.h-0-a\.layers\.0\.b, which its config"):
        opened.ci_weights("h.0.a", {"layers.0.W": (2, 4)})


def test_weights_that_are_no_floating_point_numbers_are_reported(tmp_path: Path):
    path = tmp_path / "model_1.pth"
    torch.save({**STATE, "_components.h-0-a.V": torch.ones(2, 4, dtype=torch.int64)}, path)
    with pytest.raises(HarvestError, match=r"h-0-a\.V is torch\.int64"):
        Checkpoint.open(path).component_matrices("h.0.a", d_in=2, n_components=4, d_out=3)


def test_a_missing_file_is_reported(tmp_path: Path):
    assert "is not there" in _message(tmp_path / "model_9.pth")


def test_a_file_cut_short_is_reported(path: Path):
    whole = path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert "may be cut short" in _message(path)


def test_damaged_bytes_never_raise_anything_else(path: Path):
    whole = path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        start = whole.find(b"data.pkl")
        for _ in range(3):
            damaged[start + generator.randrange(1200)] = generator.randrange(256)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                Checkpoint.open(path)
            except HarvestError:
                refused += 1
    assert refused > 50


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model_1.pth"
    torch.save({"a": Harmful()}, path)
    assert "more than tensors" in _message(path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "content", [[torch.ones(1)], {"a": 1}, {1: torch.ones(1)}, {"model": {"a": torch.ones(1)}}]
)
def test_anything_but_named_tensors_is_reported(content: object, tmp_path: Path):
    path = tmp_path / "model_1.pth"
    torch.save(content, path)
    assert "state dict" in _message(path)
