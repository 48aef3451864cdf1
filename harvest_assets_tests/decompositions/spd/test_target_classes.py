from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from harvest_assets.decompositions.spd.model import open_model
from harvest_assets.decompositions.spd.targets import FAMILIES, build_target
from harvest_assets.decompositions.spd.targets.weightless import build_weightless
from harvest_assets.errors import HarvestError
from harvest_assets_tests.decompositions.spd import random_runs


def _tiny_llama(folder: Path) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    return transformers.LlamaForCausalLM(config).float().eval()


@pytest.mark.parametrize(
    "class_name",
    [
        "LlamaForCausalLM",
        "AutoModelForCausalLM",
        "models.llama.modeling_llama.LlamaForCausalLM",
        "models.auto.AutoModelForCausalLM",
    ],
)
def test_a_transformers_model_is_float32_and_the_same(class_name: str, tmp_path: Path):
    twin = _tiny_llama(tmp_path)
    before = torch.get_rng_state()
    target = build_target(f"transformers.{class_name}", str(tmp_path))
    assert torch.equal(torch.get_rng_state(), before), "building used random numbers"
    assert {(weight.is_meta, weight.dtype) for weight in target.parameters()} == {
        (True, torch.float32)
    }
    assert not target.training
    random_runs.load_target(target, dict(twin.state_dict()))
    tokens = torch.arange(14).view(2, 7)
    with torch.inference_mode():
        assert torch.equal(target(tokens).logits, twin(tokens).logits)
    for tensor in (*target.parameters(), *target.buffers()):
        assert tensor.dtype == torch.float32
        assert not tensor.is_meta


FAMILIES_OF_TRANSFORMERS = {
    "GPT2LMHeadModel": {"n_embd": 16, "n_layer": 2, "n_head": 2},
    "GPTJForCausalLM": {"n_embd": 16, "n_layer": 2, "n_head": 2, "rotary_dim": 4},
    "GPTNeoXForCausalLM": {},
    "OPTForCausalLM": {"ffn_dim": 24, "word_embed_proj_dim": 16},
    "BloomForCausalLM": {"n_layer": 2, "n_head": 2},
    "MistralForCausalLM": {"num_key_value_heads": 1},
    "Qwen2ForCausalLM": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "Gemma2ForCausalLM": {"num_key_value_heads": 1, "head_dim": 8},
    "PhiForCausalLM": {},
    "MambaForCausalLM": {},
}


@pytest.mark.parametrize("class_name", FAMILIES_OF_TRANSFORMERS)
def test_families_of_transformers_are_the_same_as_their_twins(class_name: str, tmp_path: Path):
    model_class = getattr(transformers, class_name)
    config = model_class.config_class(
        vocab_size=31,
        hidden_size=16,
        **{
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "pad_token_id": 0,
            **FAMILIES_OF_TRANSFORMERS[class_name],
        },
    )
    torch.manual_seed(0)
    twin = model_class(config).float().eval()
    config.save_pretrained(tmp_path)
    target = build_target(f"transformers.{class_name}", str(tmp_path))
    assert all(weight.is_meta for weight in target.parameters())
    random_runs.load_target(target, dict(twin.state_dict()))
    tokens = torch.arange(14).view(2, 7) + 3
    with torch.inference_mode():
        torch.testing.assert_close(target(tokens).logits, twin(tokens).logits)


class Bigram(nn.Module):
    """A family that nobody here has heard of."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wte = nn.Embedding(13, width)
        self.head = nn.Linear(width, 13)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.wte(tokens))


def test_a_family_is_added_by_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(
        FAMILIES,
        "somebody.models.Bigram",
        lambda _class_path, source: build_weightless(lambda: Bigram(int(source))),
    )
    twin = Bigram(6)
    layers = {"head": 4, "wte": 3}
    config = random_runs.run_config(
        list(layers.items()),
        ci_fn_type="mlp",
        pretrained_model_class="somebody.models.Bigram",
        pretrained_model_name="6",
        pretrained_model_output_attr=None,
    )
    state = random_runs.random_state(twin, layers, [], kind="mlp")
    opened = open_model(config, random_runs.save_state(state, tmp_path), "cpu")
    tokens = torch.arange(12).view(3, 4)
    with torch.inference_mode():
        torch.testing.assert_close(opened(tokens).output_probs, twin(tokens).softmax(-1))
    assert opened.layers == list(layers.items())


@pytest.mark.parametrize(
    ("class_path", "sentence"),
    [
        ("os.path.join", "'os.path.join' is unknown; known are"),
        ("simple_stories_train.models.other.Other", "is unknown; known are"),
        ("LlamaForCausalLM", "is unknown; known are"),
        ("transformers.models.gpt2.LlamaForCausalLM", "known of transformers are"),
        ("transformers.models.llama.modeling_llama.LlamaModel", "known of transformers are"),
        ("transformers.LlamaModel", "known of transformers are AutoModelForCausalLM"),
        ("transformers.AutoTokenizer", "known of transformers are"),
        ("transformers.logging", "known of transformers are"),
        ("transformers.NobodysForCausalLM", "known of transformers are"),
    ],
)
def test_an_unknown_class_is_reported_with_those_known(class_path: str, sentence: str):
    with pytest.raises(HarvestError, match=sentence) as caught:
        build_target(class_path, "anything")
    if "known are" in sentence:
        families = [name for name in FAMILIES if not name.endswith("*")]
        assert all(name in str(caught.value) for name in families)


def test_an_import_path_of_a_config_is_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "harmful.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(HarvestError, match=r"'harmful\.LlamaSimpleMLP' is unknown"):
        build_target("harmful.LlamaSimpleMLP", "anything")


def test_a_config_of_another_model_or_none_is_reported(tmp_path: Path):
    _tiny_llama(tmp_path / "llama")
    with pytest.raises(HarvestError, match="is the config of a llama, not of a GPT2LMHeadModel"):
        build_target("transformers.GPT2LMHeadModel", str(tmp_path / "llama"))
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(HarvestError, match=r"config of the target model .* cannot be read: "):
        build_target("transformers.AutoModelForCausalLM", str(tmp_path))
