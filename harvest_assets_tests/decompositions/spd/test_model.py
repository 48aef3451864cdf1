from __future__ import annotations

import tempfile
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from harvest_assets.decompositions.spd.ci_functions import CI_FUNCTIONS
from harvest_assets.decompositions.spd.model import open_model
from harvest_assets.decompositions.spd.run_config import RunConfig, load_run_config
from harvest_assets.errors import HarvestError
from harvest_assets_tests.decompositions.spd import random_runs
from harvest_assets_tests.decompositions.spd.random_runs import run_config, save_state

VOCAB = 37
SEQUENCE = 9


def _llama(*, tied: bool) -> transformers.PreTrainedModel:
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=24,
        tie_word_embeddings=tied,
    )
    return transformers.LlamaForCausalLM(config)


def _gpt2() -> transformers.PreTrainedModel:
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=24
    )
    return transformers.GPT2LMHeadModel(config)


TWINS = {
    "llama": (lambda: _llama(tied=False), "transformers.LlamaForCausalLM", "logits"),
    "llama, tied": (lambda: _llama(tied=True), "transformers.AutoModelForCausalLM", "idx_0"),
    "gpt2": (_gpt2, "transformers.GPT2LMHeadModel", "logits"),
}
MODULES = {
    "llama": [
        ("model.layers.*.mlp.down_proj", 5),
        ("model.layers.1.self_attn.*_proj", 3),
        ("lm_head", 4),
    ],
    "gpt2": [("transformer.h.*.mlp.c_*", 5), ("transformer.h.0.attn.c_attn", 7)],
}


def _layers_of(kind: str) -> list[tuple[str, int]]:
    if kind == "gpt2":
        parts = [f"transformer.h.{i}.mlp.{name}" for i in range(2) for name in ("c_fc", "c_proj")]
        return [*((part, 5) for part in parts), ("transformer.h.0.attn.c_attn", 7)]
    return [
        *((f"model.layers.{i}.mlp.down_proj", 5) for i in range(2)),
        *((f"model.layers.1.self_attn.{part}_proj", 3) for part in "qkvo"),
        ("lm_head", 4),
    ]


def _twin(kind: str, folder: Path, **changes):
    """A saved twin, its run's config, state dict and checkpoint."""
    torch.manual_seed(0)
    build, class_path, output_attr = TWINS[kind]
    twin = build()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    twin.save_pretrained(folder / "target")
    twin = type(twin).from_pretrained(folder / "target").eval()
    state = random_runs.random_state(twin, dict(_layers_of(kind)), [6, 4])
    config = run_config(
        MODULES[kind.partition(",")[0]],
        ci_fn_hidden_dims=[6, 4],
        pretrained_model_class=class_path,
        pretrained_model_name=str(folder / "target"),
        pretrained_model_output_attr=output_attr,
        **changes,
    )
    return twin, config, state, save_state(state, folder)


def _layer_inputs(twin: nn.Module, layers: list[str], tokens: torch.Tensor):
    """Inputs of the layers and the logits, float64, computed in float64."""
    caught = {}
    twin = twin.double()
    for layer in layers:
        twin.get_submodule(layer).register_forward_pre_hook(
            lambda _, inputs, layer=layer: caught.__setitem__(layer, inputs[0].numpy())
        )
    with torch.no_grad():
        logits = twin(tokens).logits.numpy()
    return caught, logits


@pytest.mark.parametrize("kind", TWINS)
def test_answers_are_the_formulas_on_the_twins_layer_inputs(kind: str, tmp_path: Path):
    twin, config, state, checkpoint = _twin(kind, tmp_path)
    opened = open_model(config, checkpoint, "cpu")
    layers = _layers_of(kind)
    assert opened.layers == layers
    assert (opened.vocab_size, opened.max_context_length) == (VOCAB, 24)
    tokens = torch.randint(VOCAB, (3, SEQUENCE), generator=torch.Generator().manual_seed(1))
    probs, ci, acts = opened(tokens)
    assert {answer.dtype for answer in (probs, ci, acts)} == {torch.float32}
    inputs, logits = _layer_inputs(twin, [layer for layer, _ in layers], tokens)
    raw = np.concatenate([random_runs.raw_ci(state, n, inputs[n]) for n, _ in layers], axis=-1)
    expected = np.concatenate(
        [random_runs.component_acts(state, n, inputs[n]) for n, _ in layers], axis=-1
    )
    assert ((raw > 0) & (raw < 1)).any()
    np.testing.assert_allclose(probs.numpy(), random_runs.softmax(logits), rtol=0, atol=1e-5)
    np.testing.assert_allclose(ci.numpy(), raw.clip(0, 1), rtol=0, atol=1e-5)
    np.testing.assert_allclose(acts.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigmoid_type", ["leaky_hard", "normal", "upper_leaky_hard", "swish_hard"])
@pytest.mark.parametrize("ci_fn_type", ["mlp", "vector_mlp", "shared_mlp"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@settings(max_examples=3, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 5), max_size=2),
    c=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
def test_random_decompositions_are_the_formulas(
    kind: str, ci_fn_type: str, sigmoid_type: str, hidden: list[int], c: int, seed: int
):
    embedding, up, head = {
        "llama": ("model.embed_tokens", "model.layers.*.mlp.up_proj", "lm_head"),
        "gpt2": ("transformer.w?e", "transformer.h.*.mlp.c_fc", "transformer.h.1.attn.c_attn"),
    }[kind]
    twin = TWINS[kind][0]().eval()
    embeddings = [name for name, _ in twin.named_modules() if fnmatch(name, embedding)]
    ups = [name for name, _ in twin.named_modules() if fnmatch(name, up)]
    layers = {**dict.fromkeys(ups, c), **dict.fromkeys(embeddings, c + 1)}
    if ci_fn_type != "mlp":
        layers = dict.fromkeys(ups, c)
    patterns = [(up, c), (embedding, c + 1)][: 2 if ci_fn_type == "mlp" else 1]
    layers |= {f"{name}.pre_identity": c + 2 for name in (head, *ups)}
    state = random_runs.random_state(twin, layers, hidden, seed, ci_fn_type)
    config = run_config(
        patterns,
        identity_module_info=[{"module_pattern": p, "C": c + 2} for p in (head, up)],
        ci_fn_type=ci_fn_type,
        ci_fn_hidden_dims=hidden,
        sigmoid_type=sigmoid_type,
        pretrained_model_class=TWINS[kind][1],
        pretrained_model_output_attr="logits",
    )
    with tempfile.TemporaryDirectory() as folder:
        twin.config.save_pretrained(folder)
        config = config.model_copy(update={"pretrained_model_name": folder})
        opened = open_model(config, save_state(state, Path(folder)), "cpu")
    assert opened.layers == list(layers.items())
    tokens = torch.randint(VOCAB, (2, 5), generator=torch.Generator().manual_seed(seed))
    answer = opened(tokens)
    plain = [name for name in layers if name not in embeddings]
    inputs, logits = _layer_inputs(
        twin, [name.removesuffix(".pre_identity") for name in plain], tokens
    )
    inputs |= dict.fromkeys(embeddings, tokens.numpy())
    inputs["transformer.wpe"] = np.broadcast_to(np.arange(5), (2, 5))
    first = 0
    for layer, n in layers.items():
        layer_input = inputs[layer.removesuffix(".pre_identity")]
        raw = random_runs.raw_ci(state, layer, layer_input, ci_fn_type)
        expected = random_runs.lower_leaky(sigmoid_type, raw)
        acts = random_runs.component_acts(state, layer, layer_input)
        own = slice(first, first + n)
        np.testing.assert_allclose(answer.ci[..., own], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(answer.component_acts[..., own], acts, rtol=1e-4, atol=1e-5)
        first += n
    np.testing.assert_allclose(answer.output_probs, random_runs.softmax(logits), atol=1e-5)


def test_bfloat16_is_near_and_only_where_it_is_asked_for(tmp_path: Path):
    _, config, _, checkpoint = _twin("llama", tmp_path)
    tokens = torch.randint(VOCAB, (4, SEQUENCE), generator=torch.Generator().manual_seed(1))
    exact = open_model(config, checkpoint, "cpu")(tokens)
    rough = open_model(config, checkpoint, "cpu", bf16=True)(tokens)
    for name in ("output_probs", "ci", "component_acts"):
        one, other = getattr(exact, name), getattr(rough, name)
        assert other.dtype == torch.float32
        assert not torch.equal(one, other)
        torch.testing.assert_close(other, one, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("kind", CI_FUNCTIONS)
def test_of_layers_not_asked_for_nothing_is_opened_or_run(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    changes = {"ci_fn_type": kind, "sampling": "binomial", "sigmoid_type": "upper_leaky_hard"}
    twin, config, _, _ = _twin("llama", tmp_path, **changes)
    layers = dict(_layers_of("llama"))
    state = random_runs.random_state(twin, layers, [6, 4], kind=kind)
    tokens = torch.randint(VOCAB, (2, SEQUENCE), generator=torch.Generator().manual_seed(1))
    whole = open_model(config, save_state(state, tmp_path), "cpu", ci_noise=True)(tokens)
    asked = ["lm_head", "model.layers.1.self_attn.k_proj"]
    kept = {
        key: value
        for key, value in state.items()
        if key.startswith("target_model.") or key.split(".")[1].replace("-", ".") in asked
    }
    opened, ran = _recorded(kind, monkeypatch)
    part = open_model(config, save_state(kept, tmp_path), "cpu", only=asked, ci_noise=True)
    assert part.layers == [(name, c) for name, c in layers.items() if name in asked]
    assert sorted(opened) == sorted(asked)
    ran.clear()
    answer = part(tokens)
    assert sorted(ran) == sorted(asked)
    columns = np.repeat([name in asked for name in layers], list(layers.values()))
    assert torch.equal(answer.output_probs, whole.output_probs)
    assert torch.equal(answer.ci, whole.ci[..., columns])
    assert torch.equal(answer.component_acts, whole.component_acts[..., columns])


def _recorded(kind: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """Layers whose CI function is opened, and run, from now on."""
    opened: list[str] = []
    ran: list[str] = []
    opener = CI_FUNCTIONS[kind]

    def recording(layer, *others):
        opened.append(layer.path)
        function = opener(layer, *others)

        def run(*given):
            ran.append(layer.path)
            return function(*given)

        return run

    monkeypatch.setitem(CI_FUNCTIONS, kind, recording)
    return opened, ran


def test_binomial_runs_are_harvested_without_noise_unless_asked(tmp_path: Path):
    _, config, _, checkpoint = _twin("llama", tmp_path)
    binomial = config.model_copy(update={"sampling": "binomial"})
    tokens = torch.randint(VOCAB, (20, SEQUENCE), generator=torch.Generator().manual_seed(1))
    plain = open_model(config, checkpoint, "cpu")(tokens).ci
    assert torch.equal(open_model(binomial, checkpoint, "cpu")(tokens).ci, plain)
    assert torch.equal(open_model(config, checkpoint, "cpu", ci_noise=True)(tokens).ci, plain)

    linear = {"sampling": "binomial", "sigmoid_type": "upper_leaky_hard"}
    plain = open_model(config.model_copy(update=linear), checkpoint, "cpu")(tokens)
    opened = open_model(config.model_copy(update=linear), checkpoint, "cpu", ci_noise=True)
    noisy = opened(tokens)
    assert torch.equal(noisy.component_acts, plain.component_acts)
    assert torch.equal(noisy.output_probs, plain.output_probs)
    inside = (plain.ci > 0.06) & (plain.ci < 0.9)
    u = (1.05 * plain.ci.double() - noisy.ci.double())[inside] / 0.05
    assert len(u) > 200
    assert ((u > -1e-4) & (u < 1 + 1e-4)).all()
    grid = np.arange(1, len(u) + 1) / len(u)
    assert np.abs(np.sort(u.numpy()) - grid).max() < 2 / len(u) ** 0.5  # Kolmogorov-Smirnov

    # A row keeps its noise wherever it is, and other rows and components have other noise.
    torch.testing.assert_close(opened(tokens[1:3]).ci, noisy.ci[1:3], rtol=0, atol=1e-5)
    rounded = (u * 1e4).round().long()
    assert len(rounded.unique()) > 0.9 * len(rounded)


def test_a_real_run_gives_what_the_original_gave(
    reference_runs: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(reference_runs / "world")
    run = Path("spd_out/runs/spd-s-0ddd38e5")
    opened = open_model(load_run_config(run / "final_config.yaml"), run / "model_900.pth", "cpu")
    assert sum(c for _, c in opened.layers) == 320
    assert opened.layers[:2] == [("h.0.mlp.c_fc", 40), ("h.1.mlp.c_fc", 40)]
    assert (opened.vocab_size, opened.max_context_length) == (768, 64)
    path = reference_runs / "activations" / "s-0ddd38e5.first2.pt"
    for seen in torch.load(path, weights_only=True):
        answer = opened(seen["batch"])
        for found, expected in (
            (answer.ci, seen["ci"]),
            (answer.component_acts, seen["subcomp_acts"]),
            (answer.output_probs, seen["probs"]),
        ):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        assert ((answer.ci > 1e-6) == (seen["ci"] > 1e-6)).float().mean() > 0.99999


def test_the_answer_depends_on_the_tokens_alone(tmp_path: Path):
    _, config, _, checkpoint = _twin("gpt2", tmp_path)
    tokens = torch.arange(2 * SEQUENCE).view(2, SEQUENCE)
    opened = open_model(config, checkpoint, "cpu")
    first = opened(tokens)
    opened(tokens.flip(0))
    torch.manual_seed(99)
    for again in (opened(tokens), open_model(config, checkpoint, "cpu")(tokens)):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_what_may_stand_in_a_checkpoint_besides(tmp_path: Path):
    _, config, state, _ = _twin("llama, tied", tmp_path)
    tokens = torch.arange(SEQUENCE)[None]
    plain = open_model(config, save_state(state, tmp_path), "cpu")(tokens)
    more = {
        **state,
        "_components.lm_head.bias": torch.ones(VOCAB),
        "target_model.model.rotary_emb.inv_freq": torch.ones(2),
    }
    del more["target_model.lm_head.weight"]
    answer = open_model(config, save_state(more, tmp_path), "cpu")(tokens)
    assert all(torch.equal(a, b) for a, b in zip(plain, answer, strict=True))


def test_every_sigmoid_is_applied(tmp_path: Path):
    _, config, _, checkpoint = _twin("llama", tmp_path)
    tokens = torch.arange(SEQUENCE)[None]
    answers = {
        kind: open_model(config.model_copy(update={"sigmoid_type": kind}), checkpoint, "cpu")(
            tokens
        ).ci
        for kind in ("leaky_hard", "normal", "upper_leaky_hard", "swish_hard")
    }
    assert answers["upper_leaky_hard"].max() > 1
    assert answers["normal"].min() > 0
    assert answers["leaky_hard"].max() == 1
    assert (answers["swish_hard"] < 0).any()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pretrained_model_output_attr": None}, "output_attr null does not take logits"),
        ({"pretrained_model_output_attr": "idx_7"}, "output_attr 'idx_7' does not take logits"),
        ({"pretrained_model_output_attr": "idx_a"}, "output_attr 'idx_a' does not take logits"),
        ({"pretrained_model_output_attr": "loss"}, "output_attr 'loss' does not take logits"),
        ({"pretrained_model_output_attr": "nope"}, "which is a CausalLMOutputWithPast"),
        ({"ci_fn_type": "attention"}, "'attention' is unknown; known are mlp, vector_mlp, shared"),
        ({"ci_fn_hidden_dims": [6]}, r"_ci_fns\.model-layers-0-mlp-down_proj\.layers\."),
        (
            {"module_info": [{"module_pattern": "lm_head", "C": 4}]},
            "no pattern of its config matches that layer",
        ),
        ({"module_info": [{"module_pattern": "model.norm", "C": 4}]}, "LlamaRMSNorm"),
        (
            {"identity_module_info": [{"module_pattern": "lm_head", "C": 4}]},
            r"lacks _components\.lm_head-pre_identity\.V",
        ),
        (
            {"identity_module_info": [{"module_pattern": "nothing", "C": 4}]},
            "'nothing' of identity_module_info matches no module",
        ),
        (
            {"identity_module_info": [{"module_pattern": "*embed_tokens", "C": 4}]},
            r"'model\.embed_tokens' \(Embedding\).*Linear",
        ),
        (
            {"identity_module_info": [{"module_pattern": p, "C": 4} for p in ("lm_*", "*_head")]},
            r"lm_head is matched twice, .*'\*_head' of identity_module_info",
        ),
        (
            {
                "module_info": [{"module_pattern": "lm_head*", "C": 4}],
                "identity_module_info": [{"module_pattern": "lm_head", "C": 4}],
            },
            r"lm_head\.pre_identity is matched twice",
        ),
        ({"pretrained_model_class": "transformers.BertModel"}, "BertModel' is unknown"),
    ],
)
def test_a_config_that_does_not_fit_is_reported(changes: dict, sentence: str, tmp_path: Path):
    _, config, _, checkpoint = _twin("llama", tmp_path)
    changed = RunConfig.model_validate({**config.model_dump(), **changes})
    with pytest.raises(HarvestError, match=sentence) as caught:
        open_model(changed, checkpoint, "cpu")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_component_matrices_must_fit_the_layer(tmp_path: Path):
    _, config, state, _ = _twin("llama", tmp_path)
    key = "_components.lm_head.V"
    checkpoint = save_state({**state, key: torch.ones(16, 5)}, tmp_path)
    with pytest.raises(HarvestError, match=r"_components\.lm_head\.V .* \[16, 5\], not \[16, 4\]"):
        open_model(config, checkpoint, "cpu")
    checkpoint = save_state({k: v for k, v in state.items() if k != key}, tmp_path)
    with pytest.raises(HarvestError, match=r"lacks _components\.lm_head\.V"):
        open_model(config, checkpoint, "cpu")


def test_rows_too_long_for_the_target_are_reported(tmp_path: Path):
    _, config, _, checkpoint = _twin("gpt2", tmp_path)
    opened = open_model(config, checkpoint, "cpu")
    opened(torch.zeros((1, 24), dtype=torch.int64))
    with pytest.raises(HarvestError, match="Rows of 25 tokens are longer than the target's 24"):
        opened(torch.zeros((1, 25), dtype=torch.int64))
