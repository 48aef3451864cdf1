"""What weights say, against NumPy on the tensors of the checkpoint."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from harvest_assets.decompositions.directions import Directions
from harvest_assets.decompositions.spd.residual_stream import FAMILIES, directions_of
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.live.opened_run import OpenedRun
from harvest_assets.live.weights import WeightsAnswer, WeightsQuestion, answer_weights
from harvest_assets_tests.decompositions.spd.random_runs import float64
from harvest_assets_tests.tiny_harvest import FINISHED
from harvest_assets_tests.tiny_run import VOCAB


def ask(run: OpenedRun, key: str, top: int = 10) -> WeightsAnswer:
    return answer_weights(run, WeightsQuestion(component=key, top=top))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_tiny_run_says_what_its_tensors_say(
    finished_out: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SPD_OUT_DIR", str(finished_out))
    run = OpenedRun(HarvestLayout.of(FINISHED))
    file = finished_out.parent / "world/tiny_run/model_100.pth"
    state = {k: float64(v) for k, v in torch.load(file, weights_only=True).items()}

    def matrices(layer: str) -> tuple[np.ndarray, np.ndarray]:
        key = layer.replace(".", "-")
        return state[f"_components.{key}.V"].T, state[f"_components.{key}.U"]

    one, other = "h.0.mlp.up_proj", "h.1.mlp.up_proj"
    answer = ask(run, f"{one}:5", top=VOCAB)
    read, write = matrices(one)
    values = state["target_model.wte.weight"] @ read[5]
    assert answer.reads is not None
    assert answer.reads.of == "residual stream"
    listed = [*answer.reads.highest, *answer.reads.lowest[::-1]]
    assert [it.token_id for it in listed] == np.argsort(-values).tolist()
    np.testing.assert_allclose([it.value for it in listed], np.sort(values)[::-1], atol=1e-5)
    assert answer.writes is None  # into the MLP
    for found, layer in ((answer.same_layer, one), (answer.other_layers, other)):
        reads, writes = matrices(layer)
        expected = {
            f"{layer}:{i}": (_cosine(reads[i], read[5]), _cosine(writes[i], write[5]))
            for i in range(12)
            if (layer, i) != (one, 5)
        }
        assert {it.component for it in found} == set(expected)
        for it in found:
            a, b = expected[it.component]
            given = (it.cosine_in, it.cosine_out, it.cosine)
            assert given == pytest.approx((a, b, a * b), abs=1e-5)
        sizes = [abs(it.cosine) for it in found]
        assert sizes == sorted(sizes, reverse=True)
    assert answer.n_other_layers == 1
    assert ask(run, "h.1.attn.q_proj:0").other_layers == ()
    assert len(ask(run, f"{one}:5", top=3).same_layer) == 3
    with pytest.raises(HarvestError, match="up_proj:12"):
        ask(run, f"{one}:12")


def _stand_in(directions: Directions | None, keys: list[str]) -> SimpleNamespace:
    model = (
        SimpleNamespace() if directions is None else SimpleNamespace(directions=lambda: directions)
    )
    return SimpleNamespace(
        model=model,
        place=keys.index,
        paths=SimpleNamespace(root=Path("a-harvest")),
        decomposition=SimpleNamespace(kind="own_model" if directions is None else "spd"),
    )


def test_gpt2_reads_tokens_and_writes_through_its_final_norm():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=31, n_embd=8, n_layer=1, n_head=2, n_positions=6)
    target = transformers.GPT2LMHeadModel(config)
    block = "transformer.h.0"
    paths = ["transformer.wte", f"{block}.mlp.c_proj", f"{block}.attn.c_attn", "lm_head"]
    widths = [(31, 8), (32, 8), (8, 24), (8, 31)]
    layers = [
        SimpleNamespace(
            found=SimpleNamespace(path=path), V=torch.randn(d_in, 3), U=torch.randn(3, d_out)
        )
        for path, (d_in, d_out) in zip(paths, widths, strict=True)
    ]
    with torch.no_grad():
        target.transformer.ln_f.weight.copy_(torch.rand(8) + 0.5)
    directions = directions_of(target, layers)
    run = _stand_in(directions, [f"{path}:{i}" for path in paths for i in range(3)])
    embedding = float64(target.transformer.wte.weight)
    scale = float64(target.transformer.ln_f.weight)

    def written(u: torch.Tensor) -> np.ndarray:
        u = float64(u)
        return embedding @ (scale * (u - u.mean()))

    expected = {
        "transformer.wte": (float64(layers[0].V)[:, 1], written(layers[0].U[1])),
        f"{block}.mlp.c_proj": (None, written(layers[1].U[1])),
        f"{block}.attn.c_attn": (embedding @ float64(layers[2].V)[:, 1], None),
        "lm_head": (embedding @ float64(layers[3].V)[:, 1], float64(layers[3].U[1])),
    }
    for path, sides in expected.items():
        answer = ask(run, f"{path}:1", top=4)
        for side, values in zip((answer.reads, answer.writes), sides, strict=True):
            if values is None:
                assert side is None
                continue
            order = np.argsort(-values)
            assert [it.token_id for it in side.highest] == order[:4].tolist()
            assert [it.token_id for it in side.lowest] == order[::-1][:4].tolist()
            found = [it.value for it in (*side.highest, *side.lowest)]
            np.testing.assert_allclose(
                found, values[[*order[:4], *order[::-1][:4]]], rtol=1e-4, atol=1e-5
            )


def test_an_unknown_family_and_another_kind_say_so():
    layers = [
        SimpleNamespace(
            found=SimpleNamespace(path="up_proj"), V=torch.randn(4, 2), U=torch.zeros(2, 4)
        )
    ]
    run = _stand_in(directions_of(nn.Linear(4, 4), layers), ["up_proj:0", "up_proj:1"])
    answer = ask(run, "up_proj:0")
    assert (answer.reads, answer.writes, answer.target) == (None, None, "Linear")
    assert answer.same_layer == ()  # without an output a component is like no other
    with pytest.raises(HarvestError, match="own_model"):
        ask(_stand_in(None, ["up_proj:0"]), "up_proj:0")


@pytest.mark.parametrize("name", [name for name in FAMILIES if hasattr(transformers, name)])
def test_the_modules_of_a_family_exist(name: str):
    family, model_class = FAMILIES[name], getattr(transformers, name)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = model_class.config_class(
        vocab_size=9, hidden_size=8, intermediate_size=12, head_dim=4, **sizes
    )
    with torch.device("meta"):
        target = model_class(config)
    paths = [path for path, module in target.named_modules() if hasattr(module, "weight")]
    assert {family.embedding, family.norm, "lm_head"} <= set(paths)
    inner = [path for path in paths if family.reads(path) or family.writes(path)]
    in_block = len(family.readers) + len(family.writers)
    assert len(inner) == in_block + 2 + (family.positions is not None)
