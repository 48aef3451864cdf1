"""`dictionaries.yaml` and the target: what opens, what counts, and what is refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from harvest_assets.decompositions.dictionaries.config import load_config
from harvest_assets.decompositions.dictionaries.dictionary_set import DictionarySet
from harvest_assets.decompositions.dictionaries.formats import Format
from harvest_assets.decompositions.registry import check_config, open_decomposition, verify
from harvest_assets.errors import HarvestError
from harvest_assets.wandb_client.run_files import fetch_run
from harvest_assets.wandb_client.run_name import parse_run
from harvest_assets_tests.decompositions.dictionaries.tiny_set import (
    LAYERS,
    by_formula,
    change,
    write_sae,
    write_set,
)
from harvest_assets_tests.tiny_run import N_CTX, VOCAB, WIDTH


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("world")).parent


@pytest.fixture
def folder(world: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    shutil.copytree(world, tmp_path / "world")
    return tmp_path / "world" / "tiny_set"


def verified(folder: Path, step: int | None = None) -> Any:
    return verify(fetch_run(parse_run(str(folder)), step))


def tokens(n_rows: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCAB, (n_rows, N_CTX))


def test_a_record_opens_as_what_was_verified(folder: Path, tmp_path: Path):
    found = verified(folder)
    found.write(tmp_path)
    opened = open_decomposition(tmp_path)
    assert opened == found
    assert type(opened) is DictionarySet
    assert opened.is_of(fetch_run(parse_run(str(folder))))


def test_rows_do_not_depend_on_their_neighbours(folder: Path):
    model, rows = verified(folder).open_model("cpu"), torch.from_numpy(tokens())
    together = model(rows).firing_strengths
    expected, _ = by_formula(folder, tokens())
    np.testing.assert_allclose(together.numpy(), expected, atol=1e-5)
    np.testing.assert_array_equal(together.numpy() > 0, expected > 0)
    for i in range(len(rows)):
        alone = model(rows[i : i + 1]).firing_strengths[0]
        assert torch.equal(alone > 0, together[i] > 0)
        torch.testing.assert_close(alone, together[i], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "changed",
    [
        "tiny_set/dictionaries.yaml",
        "tiny_set/sae_relu/cfg.json",
        "tiny_set/sae_batch/sae_weights.safetensors",
        "target/model_config.yaml",
        "tiny_run/model_100.pth",
    ],
)
def test_the_digest_counts_every_file(changed: str, folder: Path):
    before = verified(folder)
    path = folder.parent / changed
    if path.suffix == ".pth":
        torch.save(torch.load(path) | {"unused": torch.ones(1)}, path)
    elif path.suffix == ".safetensors":
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
    else:
        path.write_text(path.read_text() + "\n")
    assert not before.is_of(fetch_run(parse_run(str(folder))))
    assert verified(folder).sha256 != before.sha256


@pytest.mark.parametrize("changed", ["sae_relu/sae_weights.safetensors", "dictionaries.yaml"])
def test_a_file_that_is_replaced_while_it_is_verified_is_refused(
    changed: str, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    path, open_format = folder / changed, Format.open

    def open_and_replace(*args: Any) -> Any:
        encoder = open_format(*args)
        path.with_name("newer").write_bytes(path.read_bytes() + b"\n")
        path.with_name("newer").replace(path)
        return encoder

    monkeypatch.setattr(Format, "open", open_and_replace)
    with pytest.raises(HarvestError, match=r"dictionaries\.yaml"):
        verified(folder)


def test_the_digest_does_not_count_where_the_files_are(folder: Path, tmp_path: Path):
    before = verified(folder).sha256
    folder.parent.rename(tmp_path / "moved")
    assert verified(tmp_path / "moved" / "tiny_set").sha256 == before


def _gpt2(folder: Path, *, layout: str) -> GPT2LMHeadModel:
    """A small GPT-2 in a folder, in one of the ways that its weights are stored."""
    torch.manual_seed(0)
    sizes = {"n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": VOCAB}
    model = GPT2LMHeadModel(GPT2Config(**sizes)).eval()
    size = "50KB" if layout == "sharded" else "5GB"
    model.save_pretrained(folder, max_shard_size=size)
    weights = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    if layout == "base model":
        bare = {k.removeprefix("transformer."): v.contiguous() for k, v in weights.items()}
        save_file(bare, folder / "model.safetensors")
    elif layout == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return model


@pytest.mark.parametrize("layout", ["one file", "sharded", "base model", "bin"])
def test_a_model_of_transformers_with_its_own_weights(layout: str, folder: Path):
    model = _gpt2(folder / "gpt2", layout=layout)
    assert (folder / "gpt2" / "model.safetensors.index.json").exists() == (layout == "sharded")
    write_sae(folder / "sae", {"architecture": "standard"}, seed=9)
    target = {"class": "transformers.GPT2LMHeadModel", "name": "gpt2", "output_attr": "logits"}
    hook = {"path": "sae", "side": "output"}
    dictionaries = [
        {**hook, "hook": f"transformer.h.{i}{part}"} for i, part in ((0, ""), (1, ".mlp"))
    ]
    change(folder, target=target, dictionaries=dictionaries)
    found = verified(folder).open_model("cpu")(torch.from_numpy(tokens()))
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens()), output_hidden_states=True)
    probs = expected.logits.double().softmax(-1)
    np.testing.assert_allclose(found.output_probs, probs, atol=1e-5)
    encoder = DictionarySet.verify(fetch_run(parse_run(str(folder)))).dictionaries[0].open()
    residual = encoder(expected.hidden_states[1])
    torch.testing.assert_close(found.firing_strengths[..., :10], residual, rtol=1e-4, atol=1e-4)


def test_a_module_that_is_called_by_keywords(folder: Path):
    """A Llama of transformers passes `hidden_states` to its attention by name."""
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, vocab_size=VOCAB, intermediate_size=40)
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder / "llama")
    write_sae(folder / "sae", {"architecture": "standard"}, seed=9)
    hooks = (("model.layers.1.self_attn", "input"), ("model.layers.1.self_attn", "output"))
    change(
        folder,
        target={
            "class": "transformers.AutoModelForCausalLM",
            "name": "llama",
            "output_attr": "logits",
        },
        dictionaries=[{"path": "sae", "hook": hook, "side": side} for hook, side in hooks],
    )
    found = verified(folder).open_model("cpu")(torch.from_numpy(tokens()))
    seen = []
    layer = model.model.layers[1]
    for module in (layer.input_layernorm, layer.self_attn.o_proj):  # what surrounds the attention
        module.register_forward_hook(lambda _module, _args, output: seen.append(output))
    with torch.no_grad():
        model(torch.from_numpy(tokens()))
    encoder = DictionarySet.verify(fetch_run(parse_run(str(folder)))).dictionaries[0].open()
    expected = torch.cat([encoder(vectors) for vectors in seen], -1)
    torch.testing.assert_close(found.firing_strengths, expected, rtol=1e-4, atol=1e-4)


def test_own_weights_of_a_trained_target(folder: Path):
    state = torch.load(folder.parent / "tiny_run" / "model_100.pth")
    own = {k.removeprefix("target_model."): v for k, v in state.items() if "target_model" in k}
    torch.save(own, folder.parent / "target" / "checkpoints" / "model_step_1.pt")
    before = verified(folder).open_model("cpu")(torch.from_numpy(tokens()))
    target = yaml.safe_load((folder / "dictionaries.yaml").read_text())["target"]
    del target["weights"]
    change(folder, target=target)
    after = verified(folder).open_model("cpu")(torch.from_numpy(tokens()))
    assert torch.equal(before.firing_strengths, after.firing_strengths)


def test_a_target_of_wandb_is_built_from_the_files_that_were_verified(folder: Path, out_dir: Path):
    trained, cache = folder.parent / "target", out_dir / "pretrain_cache" / "project-abcd1234"
    shutil.copytree(trained, cache)
    (cache / "final_config.yaml").touch()
    (cache / "model_step_1.pt").touch()  # `target.weights` is taken
    change(folder, target={**TARGET, "name": "wandb:entity/project/runs/abcd1234"})
    found = verified(folder)
    found.open_model("cpu")
    shutil.copytree(cache, out_dir / "runs" / "project-abcd1234")
    with pytest.raises(HarvestError, match=r"pretrain_cache/project-abcd1234.*runs/project-abcd"):
        found.open_model("cpu")


TARGET = {
    "class": "simple_stories_train.models.llama_simple.LlamaSimple",
    "name": "../target/checkpoints/model_step_1.pt",
    "weights": "../tiny_run/model_100.pth",
    "output_attr": "idx_0",
}
ONE = {"hook": "h.0.mlp", "side": "input", "path": "sae_relu"}
REFUSED: dict[str, dict[str, Any]] = {
    "h.7.mlp": {"dictionaries": [{**ONE, "hook": "h.7.mlp"}]},
    "wte": {"dictionaries": [{**ONE, "hook": "wte"}]},
    "width 24": {"dictionaries": [{**ONE, "hook": "h.0.mlp.down_proj"}]},
    "side": {"dictionaries": [{**ONE, "side": "middle"}]},
    "h.0.mlp.input": {"dictionaries": [ONE, ONE]},
    "name": {"dictionaries": [{**ONE, "name": "a:b"}]},
    "nothing_here": {"dictionaries": [{**ONE, "path": "./nothing_here"}]},
    "treshold": {"treshold": 0.5},
    "threshold": {"threshold": -1},
    "model_9.pth": {"target": {**TARGET, "weights": "../tiny_run/model_9.pth"}},
    "config.json": {
        "target": {**TARGET, "class": "transformers.LlamaForCausalLM", "name": "../target"}
    },
    "evil": {"target": {**TARGET, "class": "evil.Model"}},
    "output_attr": {"target": {**TARGET, "output_attr": None}},
    "checkpoints": {"target": {**TARGET, "name": "checkpoints/model_step_1.pt"}},
    "max_seq_len": {"data": {"max_seq_len": 0}},
    "tokenizer": {"tokenizer": "./no_tokenizer"},
    "~no_such_user/sae": {"dictionaries": [{**ONE, "path": "~no_such_user/sae"}]},
    "~no_such_user/model.pt": {"target": {**TARGET, "name": "~no_such_user/model.pt"}},
    "x" * 256: {"tokenizer": "x" * 256},
    "y" * 256: {"target": {**TARGET, "name": "y" * 256}},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_harvested_is_refused_by_name(name: str, folder: Path):
    change(folder, **REFUSED[name])
    with pytest.raises(HarvestError) as caught:
        verified(folder)
    assert name in str(caught.value)


@pytest.mark.parametrize("in_metadata", [False, True])
def test_centred_training_must_be_answered(in_metadata: bool, folder: Path):
    given = {
        "hook_name": "blocks.0.hook_resid_pre",
        "model_from_pretrained_kwargs": {"center_writing_weights": True},
    }
    config = {"metadata": given} if in_metadata else given
    write_sae(folder / "centred", {"architecture": "standard", **config}, seed=2)
    entry = {"hook": "h.1", "side": "input", "path": "centred"}
    change(folder, dictionaries=[entry])
    with pytest.raises(HarvestError, match="center"):
        verified(folder)
    found = []
    for center in (False, True):
        change(folder, dictionaries=[{**entry, "center": center}])
        found.append(verified(folder).open_model("cpu")(torch.from_numpy(tokens())))
    plain, centred = (it.firing_strengths for it in found)
    # Whatever is added to all of a centred vector's places changes nothing: in the formula, W_enc
    # then has columns that sum to zero.
    path = folder / "centred" / "sae_weights.safetensors"
    weights = load_file(path)
    w_enc = weights["W_enc"] - weights["W_enc"].mean(0)
    bias = weights["b_dec"] @ (w_enc - weights["W_enc"])
    save_file(weights | {"W_enc": w_enc, "b_enc": weights["b_enc"] + bias}, path)
    change(folder, dictionaries=[{**entry, "center": False}])
    expected = verified(folder).open_model("cpu")(torch.from_numpy(tokens())).firing_strengths
    torch.testing.assert_close(centred, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain, centred, atol=1e-2)


def test_a_dictionary_of_the_hub_is_read_from_its_cache(folder: Path):
    """In the layout of the hub's cache; nothing is downloaded in tests."""
    repository = Path(constants.HF_HUB_CACHE) / "models--someone--saes"
    commit = "0" * 40
    place = repository / "snapshots" / commit / "layer.0"
    shutil.copytree(folder / "sae_relu", place)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    try:
        local = verified(folder).dictionaries[0]
        change(folder, dictionaries=[{**ONE, "path": "someone/saes/layer.0"}])
        (found,) = verified(folder).dictionaries
    finally:
        shutil.rmtree(repository)
    assert found.folder == str(place)
    same = ("hook", "format", "architecture", "d_in", "n_latents")
    assert [getattr(found, name) for name in same] == [getattr(local, name) for name in same]


def test_rows_are_those_of_an_spd_run_on_the_same_data(folder: Path):
    run = folder.parent / "tiny_run"
    config = yaml.safe_load((run / "final_config.yaml").read_text())
    config["task_config"]["dataset_name"] = str(folder.parent / "dataset")
    config["tokenizer_name"] = str(folder.parent / "tokenizer")
    config["pretrained_model_name"] = str(folder.parent / "target/checkpoints/model_step_1.pt")
    (run / "final_config.yaml").write_text(yaml.safe_dump(config))
    assert verified(folder).data_spec(None) == verified(run).data_spec(None)


def test_the_example_of_the_docs_is_valid(tmp_path: Path):
    page = Path(__file__).parents[3] / "docs" / "dictionaries.md"
    example = page.read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]
    path = tmp_path / "dictionaries.yaml"
    path.write_text(example)
    check_config(path)
    assert [it.layer_name for it in load_config(path).dictionaries] == [
        "transformer.h.8.input",
        "transformer.h.6.mlp.output",
    ]


def test_a_repository_that_cannot_be_reached_is_named(folder: Path):
    change(folder, dictionaries=[{**ONE, "path": "nobody/no-such-saes/layer.3"}])
    with pytest.raises(HarvestError, match="nobody/no-such-saes"):
        verified(folder)


def test_dictionaries_have_no_steps(folder: Path):
    with pytest.raises(HarvestError, match="step 3"):
        verified(folder, step=3)


def test_a_config_is_checked_without_weights(folder: Path):
    shutil.rmtree(folder / "sae_relu")
    check_config(folder / "dictionaries.yaml")
    change(folder, tokenizer=3)
    with pytest.raises(HarvestError, match="tokenizer"):
        check_config(folder / "dictionaries.yaml")


def test_layers_have_their_own_names(folder: Path):
    assert [name for name, _ in verified(folder).layers] == LAYERS
    change(folder, dictionaries=[ONE, {**ONE, "path": "sae_topk", "name": "other"}])
    assert [name for name, _ in verified(folder).layers] == ["h.0.mlp.input", "other"]
