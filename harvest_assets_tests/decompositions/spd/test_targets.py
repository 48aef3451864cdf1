from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harvest_assets.decompositions.spd.targets import build_target
from harvest_assets.decompositions.spd.targets.weightless import build_weightless
from harvest_assets.errors import HarvestError
from harvest_assets.wandb_client import run_files
from harvest_assets_tests.decompositions.spd import random_runs, target_oracles
from harvest_assets_tests.decompositions.spd.random_runs import float64

PREFIXES = ("simple_stories_train.models.", "spd.pretrain.models.")
GPT2_SIMPLE = "simple_stories_train.models.gpt2_simple.GPT2Simple"
LLAMA_SIMPLE = "simple_stories_train.models.llama_simple.LlamaSimple"
LLAMA_SIMPLE_MLP = "simple_stories_train.models.llama_simple_mlp.LlamaSimpleMLP"
PROBES = {
    "gpt2_simple": GPT2_SIMPLE,
    "gpt2_simple_fixed_stds": GPT2_SIMPLE,
    "llama_simple": LLAMA_SIMPLE,
    "llama_simple_no_gqa_bias": LLAMA_SIMPLE,
    "llama_simple_mlp_adjacent_pairs": LLAMA_SIMPLE_MLP,
}
SMALL = {
    "block_size": 10,
    "vocab_size": 13,
    "n_layer": 2,
    "n_head": 4,
    "n_embd": 16,
    "n_intermediate": 12,
    "mlp_bias": False,
    "attn_bias": False,
    "rotary_base": 300,
    "rotary_adjacent_pairs": False,
    "n_ctx": 10,
    "n_key_value_heads": 2,
    "use_grouped_query_attention": True,
    "rms_norm_eps": 1e-5,
}
SMALL_GPT2 = {"block_size": 10, "vocab_size": 13, "n_layer": 2, "n_head": 4, "n_embd": 16}
NORMS = ("h.0.ln_1", "h.0.ln_2", "h.1.ln_1", "h.1.ln_2", "ln_f")


def _target_file(
    root: Path, model_config: Any, ln_stds: Any = None, *, ablated: bool | None = None
) -> str:
    root.mkdir(parents=True, exist_ok=True)
    (root / "model_config.yaml").write_text(yaml.safe_dump(model_config), encoding="utf-8")
    final = {"enable_ln_ablation": ablated}
    (root / "final_config.yaml").write_text(yaml.safe_dump(final), encoding="utf-8")
    if ln_stds is not None:
        (root / "ln-stds.json").write_text(json.dumps(ln_stds), encoding="utf-8")
    return str(root / "checkpoints" / "model_step_7.pt")


def _random_weights(
    config: dict[str, Any], seed: int = 0, family: str = "LlamaSimpleMLP"
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(shape, generator=generator) / shape[-1] ** 0.5
        for name, shape in target_oracles.shapes(family, config).items()
    }
    state["lm_head.weight"] = state["wte.weight"]
    return state


def _llama_configs() -> st.SearchStrategy[dict[str, Any]]:
    shapes = st.sampled_from([(2, 8, 1), (4, 8, 2), (4, 16, 4), (3, 6, 1), (6, 12, 2)])
    flags = st.fixed_dictionaries(
        {
            "mlp_bias": st.booleans(),
            "attn_bias": st.booleans(),
            "rotary_adjacent_pairs": st.booleans(),
            "use_grouped_query_attention": st.booleans(),
            "n_ctx": st.sampled_from([1, 4, 10, 99]),
            "rotary_base": st.sampled_from([10000, 300, 2.5]),
            "n_layer": st.integers(0, 2),
        }
    )
    return st.builds(
        lambda shape, chosen: {
            **SMALL,
            **chosen,
            **dict(zip(("n_head", "n_embd", "n_key_value_heads"), shape, strict=True)),
        },
        shapes,
        flags,
    )


def _check_logits(target: nn.Module, state: dict[str, torch.Tensor], oracle: Any) -> None:
    tokens = torch.arange(20).view(2, 10) * 5 % 13
    found, loss = random_runs.load_target(target, state)(tokens)
    assert loss is None
    weights = {name: float64(value) for name, value in state.items()}
    for row, ids in zip(found, tokens.tolist(), strict=True):
        np.testing.assert_allclose(row.numpy(), oracle(weights, ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("class_path", [LLAMA_SIMPLE, LLAMA_SIMPLE_MLP])
@settings(max_examples=25, deadline=None)
@given(config=_llama_configs(), seed=st.integers(0, 2**31))
def test_llamas_are_their_description(class_path: str, config: dict[str, Any], seed: int):
    with tempfile.TemporaryDirectory() as folder:
        target = build_target(class_path, _target_file(Path(folder), config))
    state = _random_weights(config, seed, class_path.rpartition(".")[2])
    _check_logits(target, state, lambda w, ids: target_oracles.llama_logits(config, w, ids))


@settings(max_examples=15, deadline=None)
@given(
    n_head=st.sampled_from([1, 2, 8]),
    n_layer=st.integers(0, 2),
    stds=st.none() | st.lists(st.floats(0.3, 3), min_size=5, max_size=5),
    seed=st.integers(0, 2**31),
)
def test_gpt2_simple_is_its_description(
    n_head: int, n_layer: int, stds: list[float] | None, seed: int
):
    config = {**SMALL_GPT2, "n_head": n_head, "n_layer": n_layer}
    norms = [*NORMS[: 2 * n_layer], "ln_f"]
    fixed = None if stds is None else dict(zip(norms, stds, strict=False))
    with tempfile.TemporaryDirectory() as folder:
        source = _target_file(Path(folder), config, fixed, ablated=fixed is not None)
        target = build_target(GPT2_SIMPLE, source)
    state = _random_weights(config, seed, "GPT2Simple")
    _check_logits(target, state, lambda w, ids: target_oracles.gpt2_logits(config, w, ids, fixed))


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", PROBES)
def test_a_probe_of_the_original_gives_the_same_logits(
    name: str, prefix: str, reference_runs: Path, tmp_path: Path
):
    probe = torch.load(reference_runs / "target_probes" / f"{name}.pt", weights_only=True)
    class_path = PROBES[name].replace(PREFIXES[0], prefix)
    model_config = {**probe["model_config"], "model_type": class_path.rpartition(".")[2]}
    stds = probe["ln_stds"]
    source = _target_file(tmp_path, model_config, stds, ablated=stds is not None)
    target = random_runs.load_target(build_target(class_path, source), probe["state_dict"])
    with torch.inference_mode():
        logits, _ = target(probe["tokens"])
    torch.testing.assert_close(logits, probe["logits"], rtol=0, atol=1e-5)
    ids = probe["tokens"][0].tolist()
    weights = {key: float64(value) for key, value in probe["state_dict"].items()}
    if class_path.endswith("GPT2Simple"):
        expected = target_oracles.gpt2_logits(model_config, weights, ids, stds)
    else:
        expected = target_oracles.llama_logits(model_config, weights, ids)
    np.testing.assert_allclose(expected, probe["logits"][0].numpy(), rtol=0, atol=1e-5)


def test_fixed_stds_count_only_where_the_target_was_ablated(tmp_path: Path):
    state = _random_weights(SMALL_GPT2, 0, "GPT2Simple")
    tokens = torch.arange(10)[None]
    stds = dict.fromkeys(NORMS, 1.7)
    answers = {}
    for ablated in (True, False, None):
        source = _target_file(tmp_path, SMALL_GPT2, stds, ablated=ablated)
        answers[ablated] = random_runs.load_target(build_target(GPT2_SIMPLE, source), state)(
            tokens
        )[0]
    assert torch.equal(answers[False], answers[None])
    assert not torch.allclose(answers[True], answers[False])
    # Of the other families they mean nothing.
    build_target(LLAMA_SIMPLE, _target_file(tmp_path, SMALL, {"ln_f": 1.0}, ablated=True))


@pytest.mark.parametrize(
    ("stds", "sentence"),
    [
        (None, r"enable_ln_ablation: true, but .*ln-stds\.json is missing"),
        ([1.0, 2.0], r"ln-stds\.json must map the path of each LayerNorm"),
        (dict.fromkeys(NORMS, 0.0), "a number above 0"),
        (dict.fromkeys(NORMS, "1"), "a number above 0"),
        (dict.fromkeys(NORMS[1:], 1.0), r"disagree about 'h\.0\.ln_1'"),
        (dict.fromkeys([*NORMS, "ln_g"], 1.0), r"disagree about 'ln_g'.*h\.0\.ln_1, h\.0\.ln_2"),
    ],
)
def test_wrong_stds_are_reported(stds: Any, sentence: str, tmp_path: Path):
    with pytest.raises(HarvestError, match=sentence):
        build_target(GPT2_SIMPLE, _target_file(tmp_path, SMALL_GPT2, stds, ablated=True))


def test_stds_without_a_config_are_reported(tmp_path: Path):
    source = _target_file(tmp_path, SMALL_GPT2, dict.fromkeys(NORMS, 1.0))
    (tmp_path / "final_config.yaml").unlink()
    with pytest.raises(HarvestError, match=r"final_config\.yaml is missing"):
        build_target(GPT2_SIMPLE, source)
    (tmp_path / "ln-stds.json").unlink()
    assert build_target(GPT2_SIMPLE, source).ln_f.std is None


@pytest.mark.parametrize(
    ("class_path", "norm", "mlp"),
    [
        (GPT2_SIMPLE, "ln", ["c_fc", "gelu", "down_proj"]),
        (LLAMA_SIMPLE, "rms", ["gate_proj", "up_proj", "down_proj"]),
        (LLAMA_SIMPLE_MLP, "rms", ["c_fc", "gelu", "down_proj"]),
    ],
)
def test_modules_stand_in_the_order_of_the_family(
    class_path: str, norm: str, mlp: list[str], tmp_path: Path
):
    target = build_target(class_path, _target_file(tmp_path, {**SMALL, "n_layer": 1}))
    assert [name for name, module in target.named_modules() if not list(module.children())] == [
        "wte",
        *(["wpe"] if norm == "ln" else []),
        f"h.0.{norm}_1",
        *(f"h.0.attn.{part}_proj" for part in "qkvo"),
        f"h.0.{norm}_2",
        *(f"h.0.mlp.{part}" for part in mlp),
        "ln_f",
        "lm_head",
    ]


@pytest.mark.parametrize(
    ("class_path", "inner"),
    [
        (GPT2_SIMPLE, {"c_fc": 3072}),
        (LLAMA_SIMPLE, {"gate_proj": 2048, "up_proj": 2048}),
        (LLAMA_SIMPLE_MLP, {"c_fc": 3072}),
    ],
)
def test_defaults_are_those_of_the_family(class_path: str, inner: dict[str, int], tmp_path: Path):
    target = build_target(class_path, _target_file(tmp_path, {"n_layer": 1}))
    shapes = {name: tuple(value.shape) for name, value in target.state_dict().items()}
    assert shapes["wte.weight"] == (50257, 768)
    for name, width in inner.items():
        assert shapes[f"h.0.mlp.{name}.weight"] == (width, 768)
    assert target.max_context_length == 1024
    is_gpt2 = class_path == GPT2_SIMPLE
    assert shapes["h.0.attn.k_proj.weight"] == (768 if is_gpt2 else 192, 768)
    assert any(name.endswith("bias") for name in shapes) == is_gpt2
    assert len(build_target(class_path, _target_file(tmp_path, {})).h) == 12


@pytest.mark.parametrize("given_names", [["wte"], ["lm_head"], ["wte", "lm_head"]])
def test_tied_weights_may_stand_once_or_twice(given_names: list[str], tmp_path: Path):
    target = build_target(LLAMA_SIMPLE_MLP, _target_file(tmp_path, SMALL))
    state = _random_weights(SMALL)
    kept = {
        name: value.clone()
        for name, value in state.items()
        if name.partition(".")[0] not in {"wte", "lm_head"} - set(given_names)
    }
    random_runs.load_target(target, kept)
    assert target.wte.weight is target.lm_head.weight
    assert torch.equal(target.wte.weight, state["wte.weight"])


def test_tied_weights_that_differ_are_reported(tmp_path: Path):
    target = build_target(LLAMA_SIMPLE_MLP, _target_file(tmp_path, SMALL))
    state = _random_weights(SMALL)
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    with pytest.raises(HarvestError, match=r"wte\.weight and target_model\.lm_head\.weight differ"):
        random_runs.load_target(target, state)


def test_wrong_target_weights_are_reported(tmp_path: Path):
    target = build_target(LLAMA_SIMPLE_MLP, _target_file(tmp_path, SMALL))
    state = _random_weights(SMALL)
    with pytest.raises(HarvestError, match=r"lacks target_model\.ln_f\.weight"):
        random_runs.load_target(
            target, {name: value for name, value in state.items() if name != "ln_f.weight"}
        )
    with pytest.raises(HarvestError, match=r"has target_model\.h\.2\.rms_1\.weight, which"):
        random_runs.load_target(target, {**state, "h.2.rms_1.weight": torch.ones(16)})
    with pytest.raises(HarvestError, match=r"target_model\.ln_f\.weight .* \[3\], not \[16\]"):
        random_runs.load_target(target, {**state, "ln_f.weight": torch.ones(3)})


def test_weights_are_taken_as_float32(tmp_path: Path):
    target = build_target(LLAMA_SIMPLE_MLP, _target_file(tmp_path, SMALL))
    halves = {name: value.bfloat16() for name, value in _random_weights(SMALL).items()}
    random_runs.load_target(target, halves)
    assert {weight.dtype for weight in target.parameters()} == {torch.float32}
    assert torch.equal(target.ln_f.weight, halves["ln_f.weight"].float())


@pytest.mark.parametrize(
    ("model_config", "sentence"),
    [
        ({**SMALL, "model_type": "GPT2Simple"}, "is the config of a GPT2Simple, not of a Llama"),
        ({**SMALL, "n_head": 3}, "n_embd 16 does not give 3 heads"),
        ({**SMALL, "n_key_value_heads": 3}, "n_head 4 .*n_key_value_heads 3"),
        ({**SMALL, "n_layer": "two"}, r"model_config\.yaml: n_layer: "),
        ({**SMALL, "n_head": 0}, "n_head: .* greater than 0"),
        ([1, 2], "does not hold a mapping"),
    ],
)
def test_a_wrong_model_config_is_reported(model_config: Any, sentence: str, tmp_path: Path):
    with pytest.raises(HarvestError, match=sentence):
        build_target(LLAMA_SIMPLE_MLP, _target_file(tmp_path, model_config))


def test_a_target_that_is_not_there_is_reported(tmp_path: Path):
    source = str(tmp_path / "checkpoints" / "model_step_7.pt")
    with pytest.raises(HarvestError, match=r"is not there: .*model_config\.yaml is missing"):
        build_target(LLAMA_SIMPLE_MLP, source)
    (tmp_path / "model_config.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(HarvestError, match="cannot be read as YAML"):
        build_target(LLAMA_SIMPLE_MLP, source)


def test_a_wandb_name_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _target_file(tmp_path, SMALL)
    asked = []
    monkeypatch.setattr(run_files, "fetch_target", lambda name: asked.append(name.key) or tmp_path)
    target = build_target(LLAMA_SIMPLE_MLP, "wandb:ent/proj/runs/d2ec3bfe")
    assert target.max_context_length == SMALL["block_size"]
    assert asked == ["ent/proj/d2ec3bfe"]


class ReadsItsWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.total = self.weight.sum().item()


def test_a_model_that_reads_its_weights_is_built_in_full():
    register = nn.Module.register_parameter
    built = build_weightless(ReadsItsWeights)
    assert built.total == 3
    assert not built.weight.is_meta
    assert nn.Module.register_parameter is register


@pytest.mark.parametrize("class_path", [LLAMA_SIMPLE, LLAMA_SIMPLE_MLP])
def test_rotary_tables_beyond_all_memory_are_refused(tmp_path: Path, class_path: str):
    large = SMALL | {"block_size": 1 << 26, "n_embd": 64, "n_head": 4}
    with pytest.raises(HarvestError, match=r"tables .* 8,589,934,592 bytes"):
        build_target(class_path, _target_file(tmp_path, large))


def test_a_target_of_our_own_is_built_without_the_compiler(tmp_path: Path):
    """Importing PyTorch's compiler would take each process of a harvest seconds."""
    program = (
        "import sys; from harvest_assets.decompositions.spd.targets import build_target; "
        "build_target(*sys.argv[1:3]); build_target(*sys.argv[3:]); "
        "print('torch' in sys.modules, 'torch._dynamo' in sys.modules)"
    )
    llama = (LLAMA_SIMPLE, _target_file(tmp_path / "llama", SMALL))
    gpt2 = (GPT2_SIMPLE, _target_file(tmp_path / "gpt2", SMALL_GPT2))
    done = subprocess.run(
        [sys.executable, "-c", program, *llama, *gpt2], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]
