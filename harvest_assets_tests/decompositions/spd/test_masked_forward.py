"""Masked forwards against targets whose weight matrices are edited, in float64."""

from __future__ import annotations

import copy
import tempfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from harvest_assets.decompositions.protocol import HasMaskedForward
from harvest_assets.decompositions.spd.model import DecomposedModel, open_model
from harvest_assets.decompositions.spd.run_config import load_run_config
from harvest_assets.decompositions.spd.targets import build_target
from harvest_assets.errors import HarvestError
from harvest_assets_tests.decompositions.spd import random_runs
from harvest_assets_tests.decompositions.spd.random_runs import run_config, save_state

VOCAB = 23
_SIMPLE = {"vocab_size": VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 4, "block_size": 12}
_LLAMA = {**_SIMPLE, "n_ctx": 12, "n_key_value_heads": 2, "n_intermediate": 20, "mlp_bias": True}
_OURS = "simple_stories_train.models."

# family: (class, config, decomposed modules, modules before which an identity is decomposed)
FAMILIES = {
    "gpt2_simple": (f"{_OURS}gpt2_simple.GPT2Simple", _SIMPLE, "h.*.mlp.*|w?e|lm_head", "lm_head"),
    "llama_simple": (f"{_OURS}llama_simple.LlamaSimple", _LLAMA, "h.?.attn.?_proj|wte", "*.mlp.*j"),
    "llama_simple_mlp": (
        f"{_OURS}llama_simple_mlp.LlamaSimpleMLP",
        {**_LLAMA, "use_grouped_query_attention": False, "attn_bias": True},
        "h.*.mlp.*|h.1.attn.c_attn",
        "h.0.attn.o_proj",
    ),
    "gpt2": (
        "transformers.GPT2LMHeadModel",
        transformers.GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=12),
        "transformer.h.*.c_*|transformer.w?e",
        "transformer.h.1.mlp.c_fc",
    ),
    "llama": (
        "transformers.LlamaForCausalLM",
        transformers.LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
        "model.layers.*_proj|lm_head|*embed_tokens",
        "model.layers.0.self_attn.v_proj",
    ),
}


class RandomRun:
    """A random decomposition of a random target: opened by us, and as weights to edit."""

    def __init__(self, family: str, c: int, seed: int) -> None:
        class_path, config, modules, before = FAMILIES[family]
        torch.manual_seed(seed)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            source = _write_config(folder, config)
            target = _with_random_weights(build_target(class_path, source))
            names = [
                (path, pattern)
                for pattern in modules.split("|")
                for path, module in target.named_modules()
                if fnmatch(path, pattern) and hasattr(module, "weight")
            ]
            identities = [
                path
                for path, module in target.named_modules()
                if fnmatch(path, before) and hasattr(module, "weight")
            ]
            self.layers = dict.fromkeys([path for path, _ in names], c)
            self.layers |= dict.fromkeys([f"{path}.pre_identity" for path in identities], c)
            self.state = random_runs.random_state(target, self.layers, [3], seed, "mlp")
            self.config = run_config(
                [(path, c) for path, _ in names],
                identity_module_info=[{"module_pattern": p, "C": c} for p in identities],
                ci_fn_type="mlp",
                ci_fn_hidden_dims=[3],
                pretrained_model_class=class_path,
                pretrained_model_name=source,
                pretrained_model_output_attr="idx_0",
            )
            self.target = copy.deepcopy(target).double()
            self.opened: DecomposedModel = self.open(folder)
        self.opened_layers = dict(self.opened.layers)
        self.n = sum(self.layers.values())
        self.tokens = torch.randint(VOCAB, (2, 7))

    def open(self, folder: Path, only: list[str] | None = None) -> DecomposedModel:
        return open_model(self.config, save_state(self.state, folder), "cpu", only=only)

    def edited(self, mask: torch.Tensor, *, with_rest: bool) -> torch.Tensor:
        """Probabilities of the target with its weights edited, in float64."""
        target = copy.deepcopy(self.target)
        new: dict[str, torch.Tensor] = {}
        for layer, m in zip(
            self.opened_layers, mask.double().split(list(self.opened_layers.values())), strict=True
        ):
            key = layer.replace(".", "-")
            v = self.state[f"_components.{key}.V"].double()
            u = self.state[f"_components.{key}.U"].double()
            weight = torch.eye(len(v)).double() if "identity" in layer else _matrix(target, layer)
            rest = weight - v @ u if with_rest else 0
            new[layer] = (v * m) @ u + rest
        for layer in {name.removesuffix(".pre_identity") for name in new}:
            weight = new.get(layer, _matrix(target, layer))
            if f"{layer}.pre_identity" in new:
                weight = new[f"{layer}.pre_identity"] @ weight
            module = target.get_submodule(layer)
            # A parameter of this module alone, so that tied ones stay.
            module.weight = nn.Parameter(weight.T if isinstance(module, nn.Linear) else weight)
        with torch.no_grad():
            output = target(self.tokens)[0]
        return output.softmax(-1)


def _write_config(folder: Path, config) -> str:
    if isinstance(config, dict):
        (folder / "model_config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        return str(folder / "checkpoints" / "model_step_1.pt")
    config.save_pretrained(folder)
    return str(folder)


def _with_random_weights(target: nn.Module) -> nn.Module:
    """The target with weights of ordinary sizes; tied ones stay tied."""
    weights: dict[int, torch.Tensor] = {}
    state = {}
    for name, own in target.state_dict(keep_vars=True).items():
        drawn = torch.randn(own.shape) * (0.1 if name.endswith("bias") else own.shape[-1] ** -0.5)
        is_norm = own.ndim == 1 and not name.endswith("bias")
        state[name] = weights.setdefault(id(own), drawn + 1 if is_norm else drawn)
    return random_runs.load_target(target, state)


def _matrix(target: nn.Module, layer: str) -> torch.Tensor:
    """[d_in, d_out]."""
    module = target.get_submodule(layer)
    return module.weight.T if isinstance(module, nn.Linear) else module.weight


def _assert_equal(log_probs: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(log_probs.exp().double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=4, deadline=None, phases=[Phase.generate])
@given(c=st.integers(1, 5), seed=st.integers(0, 2**31), with_rest=st.booleans())
def test_masks_are_edits_of_the_weights(family: str, c: int, seed: int, with_rest: bool):
    run = RandomRun(family, c, seed)
    assert run.opened_layers == run.layers
    assert isinstance(run.opened, HasMaskedForward)
    own = run.opened.masked(run.tokens, None, with_rest=False)
    _assert_equal(own, run.opened(run.tokens).output_probs.double())
    ones = torch.ones(run.n)
    _assert_equal(run.opened.masked(run.tokens, ones, with_rest=True), own.exp().double())
    for mask in ((torch.rand(run.n) < 0.5).float(), torch.rand(run.n) * 2 - 0.5, ones):
        changed = run.opened.masked(run.tokens, mask, with_rest=with_rest)
        _assert_equal(changed, run.edited(mask, with_rest=with_rest))
        everywhere = mask.expand(2, 7, run.n)
        again = run.opened.masked(run.tokens, everywhere, with_rest=with_rest)
        _assert_equal(again, changed.exp().double())
    assert torch.equal(run.opened.masked(run.tokens, None, with_rest=True), own)  # left unchanged


@settings(max_examples=4, deadline=None, phases=[Phase.generate])
@given(c=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_a_mask_may_differ_by_position(c: int, seed: int):
    run = RandomRun("gpt2_simple", c, seed)
    mask = torch.ones(2, 7, run.n)
    # After the last attention, what is masked at a position changes the prediction there alone.
    late = torch.tensor([name.startswith(("h.1.mlp", "lm_head")) for name in run.layers])
    late = late.repeat_interleave(c)
    mask[..., late] = torch.rand(2, 7, int(late.sum()))
    found = run.opened.masked(run.tokens, mask, with_rest=True)
    for row, position in ((0, 0), (0, 6), (1, 3)):
        expected = run.edited(mask[row, position], with_rest=True)
        _assert_equal(found[row, position], expected[row, position])


def test_layers_that_are_left_out_stay_and_masks_must_fit(tmp_path: Path):
    _, model_config, _, _ = FAMILIES["gpt2_simple"]
    run = RandomRun("gpt2_simple", 3, 0)
    source = _write_config(tmp_path, model_config)
    run.config = run.config.model_copy(update={"pretrained_model_name": source})
    some = [name for name in run.layers if name.startswith("h.0")]
    run.opened = run.open(tmp_path, some)
    run.opened_layers = dict.fromkeys(some, 3)
    nothing = torch.zeros(3 * len(some))
    found = run.opened.masked(run.tokens, nothing, with_rest=False)
    _assert_equal(found, run.edited(nothing, with_rest=False))
    for wrong in (torch.ones(run.n), torch.ones(1, 7, len(nothing)), nothing / 0):
        with pytest.raises(HarvestError, match="mask"):
            run.opened.masked(run.tokens, wrong, with_rest=True)


def test_a_real_run_without_its_components_and_with_all(
    reference_runs: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(reference_runs / "world")
    monkeypatch.setenv("SPD_OUT_DIR", str(reference_runs / "world/spd_out"))
    for run, step in (("spd-s-0ddd38e5", 900), ("spd-s-5d000001", 500)):
        folder = Path("spd_out/runs") / run
        opened = open_model(
            load_run_config(folder / "final_config.yaml"), folder / f"model_{step}.pth", "cpu"
        )
        tokens = torch.arange(60).view(1, 60) * 7 % 768
        outputs = opened(tokens)
        ones = torch.ones(outputs.ci.shape[-1])
        _assert_equal(opened.masked(tokens, ones, with_rest=True), outputs.output_probs.double())
        # It was trained so that its components alone, times their importance, predict alike.
        masked = opened.masked(tokens, outputs.ci, with_rest=False)
        nothing = opened.masked(tokens, ones * 0, with_rest=False)
        assert _kl(outputs.output_probs, masked) < 0.5 * _kl(outputs.output_probs, nothing)


def _kl(probs: torch.Tensor, log_probs: torch.Tensor) -> float:
    return float((probs * (probs.log() - log_probs)).sum(-1).mean())
