"""Configs in sections, and the flat ones of the same time, mean what the older flat form means."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from harvest_assets.decompositions.spd.run_config import RunConfig, load_run_config
from harvest_assets.errors import HarvestError

CI = {"mode": "layerwise", "fn_type": "shared_mlp", "hidden_dims": [5]}
FLAT = {
    "seed": 11,
    "autocast_bf16": True,
    "ci_config": CI,
    "sampling": "continuous",
    "sigmoid_type": "half_sin",
    "module_info": [{"module_pattern": "h.*.c_fc", "C": 7}],
    "identity_module_info": None,
    "tied_weights": None,
    "pretrained_model_class": "param_decomp.pretrain.models.gpt2_simple.GPT2Simple",
    "pretrained_model_name": "who/what/runs/t-0123abcd",
    "pretrained_model_output_attr": "idx_0",
    "tokenizer_name": "somebody/tokenizer",
    "task_config": {
        "task_name": "lm",
        "dataset_name": "data",
        "column_name": "text",
        "max_seq_len": 32,
        "train_data_split": "train",
        "is_tokenized": False,
        "streaming": False,
        "buffer_size": 1000,
        "shuffle_each_epoch": True,
    },
}
NESTED: dict[str, Any] = {
    "reloader_class": "param_decomp_lab.experiments.lm.run.LMReloader",
    "pd": {
        "seed": 11,
        "ci_config": CI,
        "sampling": "continuous",
        "sigmoid_type": "half_sin",
        "decomposition_targets": [{"module_pattern": "h.*.c_fc", "C": 7}],
        "identity_decomposition_targets": None,
        "tied_weights": None,
        "loss_metrics": [],
    },
    "runtime": {"device": "cuda"},
    "cadence": {},
    "target": {
        "spec": {
            "kind": "pretrained",
            "model_class": "param_decomp.pretrain.models.gpt2_simple.GPT2Simple",
            "run_path": "who/what/runs/t-0123abcd",
        },
        "output_extract": 0,
        "weights_dtype": "float32",
    },
    "data": {
        "dataset_name": "data",
        "tokenizer_name": "somebody/tokenizer",
        "max_seq_len": 32,
        "train_split": "train",
        "eval_split": "test",
        "is_tokenized": False,
        "streaming": False,
    },
    "eval": {},
}


def load(folder: Path, raw: dict[str, Any]) -> RunConfig:
    path = folder / "run_meta.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return load_run_config(path)


def nested(section: str, **changes: Any) -> dict[str, Any]:
    raw = copy.deepcopy(NESTED)
    raw[section] |= changes
    return raw


def test_sections_mean_the_same(tmp_path: Path):
    flat = load(tmp_path, FLAT)
    assert load(tmp_path, NESTED) == flat
    without = {key: value for key, value in NESTED.items() if key != "reloader_class"}
    assert load(tmp_path, without) == flat
    assert not flat.special_tokens
    extracted = {k: v for k, v in FLAT.items() if k != "pretrained_model_output_attr"}
    del extracted["autocast_bf16"]
    assert load(tmp_path, {**extracted, "output_extract": 0}) == flat
    for older in (None, "logits"):
        both = {**extracted, "output_extract": 0, "pretrained_model_output_attr": older}
        assert load(tmp_path, both) == flat, "the newer name wins"


@pytest.mark.parametrize(
    ("target", "name", "attribute"),
    [
        (
            {"spec": {"kind": "hf", "model_class": "transformers.X", "model_name": "a/b"}},
            "a/b",
            "logits",
        ),
        ({"model_class": "transformers.X", "model_name": "a/b"}, "a/b", "logits"),
        (
            {"model_class": "transformers.X", "model_path": "./here", "output_extract": None},
            "./here",
            None,
        ),
        (
            {
                "spec": {
                    "kind": "hf_weights_in_vendored",
                    "model_class": "param_decomp.vendored.gpt2.GPT2LMHeadModel",
                    "model_name": "a/b",
                },
                "output_extract": "logits",
            },
            "a/b",
            "logits",
        ),
    ],
)
def test_kinds_of_targets(tmp_path: Path, target: dict[str, Any], name: str, attribute: str | None):
    config = load(tmp_path, {**NESTED, "target": target})
    assert config.target_name == name
    assert config.pretrained_model_output_attr == attribute
    assert config.pretrained_model_class.startswith("transformers.")


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (nested("pd", extra_input_module_patterns=["h.*.attn"]), "extra_input_module_patterns"),
        (
            nested("pd", ci_config={**CI, "extra_input_module_patterns": ["h.*"]}),
            "extra_input_module_patterns",
        ),
        ({**FLAT, "extra_input_module_patterns": ["h.*"]}, "extra_input_module_patterns"),
        ({**NESTED, "reloader_class": "param_decomp_jax.lm.JaxReloader"}, "JAX"),
        (nested("target", spec={"kind": "tms", "model_class": "x"}), "tms"),
        (
            nested(
                "target",
                spec={"kind": "hf_weights_in_vendored", "model_class": "a.Qwen", "model_name": "q"},
            ),
            "Qwen",
        ),
        (nested("target", output_extract=[1]), "output_extract"),
        (nested("target", spec={"kind": ["hf"], "model_class": "x"}), "kind"),
        (nested("target", spec={"kind": "hf", "model_name": "x"}), "target.spec.model_class"),
        (nested("data", dataset_name=None), "data.dataset_name"),
        (nested("target", spec={"kind": "hf", "model_class": "x"}), "target.spec.model_name"),
        (nested("target", spec={"kind": "pretrained", "model_class": "x"}), "target.spec.run_path"),
        (nested("target", spec="hf"), "target.spec"),
        ({**NESTED, "target": {"model_class": "x"}}, "target.model_name"),
        (nested("data", tokenizer_name=None), "data.tokenizer_name"),
        (nested("pd", decomposition_targets=None), "pd.decomposition_targets"),
        ({key: value for key, value in NESTED.items() if key != "pd"}, "'pd'"),
        ({**NESTED, "data": None}, "data"),
        ({**NESTED, "pd": 3}, "pd"),
    ],
)
def test_what_cannot_be_harvested_is_named(tmp_path: Path, raw: dict[str, Any], name: str):
    with pytest.raises(HarvestError, match=name):
        load(tmp_path, raw)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (nested("pd", seed="x"), "pd.seed"),
        (nested("pd", sigmoid_type="soft"), "pd.sigmoid_type"),
        (nested("pd", sampling="beta"), "pd.sampling"),
        (
            nested("pd", decomposition_targets=[{"module_pattern": "a"}]),
            "pd.decomposition_targets.0.C",
        ),
        (
            nested("pd", identity_decomposition_targets=[{"C": 3}]),
            "pd.identity_decomposition_targets.0.module_pattern",
        ),
        (nested("pd", ci_config={**CI, "hidden_dims": [0]}), "pd.ci_config.hidden_dims.0"),
        (nested("pd", ci_config={**CI, "fn_type": 3}), "pd.ci_config.fn_type"),
        (nested("pd", ci_config={"mode": "global"}), "pd.ci_config.fn_type"),
        (
            nested("pd", ci_config={"mode": "global", "fn_type": "x", "d_resid_ci_fn": 0}),
            "pd.ci_config.d_resid_ci_fn",
        ),
        (nested("data", dataset_name=3), "data.dataset_name"),
        (nested("data", max_seq_len=0), "data.max_seq_len"),
        (nested("data", train_split=3), "data.train_split"),
        (nested("data", tokenizer_name=3), "data.tokenizer_name"),
        (nested("target", weights_dtype="int8"), "target.weights_dtype"),
        (
            nested("target", spec={"kind": "hf", "model_class": 3, "model_name": "x"}),
            "target.spec.model_class",
        ),
        (
            nested("target", spec={"kind": "pretrained", "model_class": "x", "run_path": 3}),
            "target.spec.run_path",
        ),
        ({**NESTED, "target": {"model_class": "x", "model_name": 3}}, "target.model_name"),
        ({**NESTED, "target": {"model_class": "x", "model_path": 3}}, "target.model_path"),
        ({**FLAT, "ci_config": {**CI, "hidden_dims": 3}}, "ci_config.hidden_dims"),
        ({**FLAT, "ci_config": {"mode": "global"}}, "ci_config.fn_type"),
        ({**FLAT, "ci_config": None, "gate_type": 3}, "gate_type"),
        ({**FLAT, "ci_config": None, "gate_hidden_dims": 3}, "gate_hidden_dims"),
        (
            {**FLAT, "ci_config": None, "use_global_ci": True, "ci_fn_hidden_dims": [0]},
            "ci_fn_hidden_dims.0",
        ),
        (
            {
                **FLAT,
                "ci_config": None,
                "ci_fn_type": "global_reverse_residual",
                "d_resid_ci_fn": 0,
            },
            "d_resid_ci_fn",
        ),
        ({**FLAT, "task_config": {"task_name": "lm", "max_seq_len": 0}}, "task_config.max_seq_len"),
    ],
)
def test_a_wrong_value_is_named_as_the_config_names_it(
    tmp_path: Path, raw: dict[str, Any], name: str
):
    with pytest.raises(HarvestError, match=re.escape(f"run_meta.yaml: {name}: ")):
        load(tmp_path, raw)


def test_a_target_that_was_held_in_bfloat16_is_noted(tmp_path: Path):
    plain = load(tmp_path, NESTED)
    assert load(tmp_path, nested("target", weights_dtype=None)) == plain
    rounded = load(tmp_path, nested("target", weights_dtype="bfloat16"))
    assert [("weights_dtype" in note) for note in rounded.notes] == [True]
    assert plain.notes == []
    assert rounded.notes[0] in rounded.warnings(0.5, 32)


@pytest.mark.parametrize(
    ("kind", "unused"),
    [
        ("global_shared_mlp", {"block_groups": []}),
        ("global_shared_mlp", {"simple_transformer_ci_cfg": {"d_model": 0}}),
        ("global_shared_mlp", {"transition_attn_config": {"n_heads": 3}, "d_resid_ci_fn": 4}),
        ("global_shared_transformer", {"block_groups": [], "hidden_dims": [0]}),
        ("global_reverse_residual", {"hidden_dims": [0]}),
        ("global_reverse_residual", {"simple_transformer_ci_cfg": {"d_model": 0}}),
    ],
)
def test_what_a_kind_does_not_use_does_not_matter(
    tmp_path: Path, kind: str, unused: dict[str, Any]
):
    ci = {"mode": "global", "fn_type": kind}
    plain = load(tmp_path, {**FLAT, "ci_config": ci})
    config = load(tmp_path, {**FLAT, "ci_config": ci | unused})
    assert config == plain
    assert config.warnings(0.5, 7) == []


def test_an_empty_list_of_extra_inputs_is_none(tmp_path: Path):
    raw = nested("pd", extra_input_module_patterns=[])
    assert load(tmp_path, raw) == load(tmp_path, NESTED)


TRANSFORMER = {
    "mode": "global",
    "fn_type": "global_shared_transformer",
    "simple_transformer_ci_cfg": {
        "d_model": 8,
        "n_blocks": 1,
        "attn_config": {"n_heads": 2},
    },
}


@pytest.mark.parametrize(
    ("changes", "special_tokens", "n_notes"),
    [
        ({}, False, 0),
        ({"autocast_bf16": False}, False, 0),
        ({"autocast_bf16": None}, False, 0),
        ({"without": "autocast_bf16"}, True, 1),
        ({"without": "autocast_bf16", "ci_config": TRANSFORMER}, True, 1),
        (
            {
                "without": "autocast_bf16",
                "ci_config": {**TRANSFORMER, "transition_hidden_dim": None},
            },
            True,
            2,
        ),
        (
            {
                "without": "autocast_bf16",
                "task_config": {**FLAT["task_config"], "dataset_seed": None},
            },
            False,
            0,
        ),
        ({"without": "autocast_bf16", "ci_config": None}, True, 0),
    ],
)
def test_the_age_of_a_config_decides(
    tmp_path: Path, changes: dict[str, Any], special_tokens: bool, n_notes: int
):
    raw = {**FLAT, **changes}
    raw.pop(raw.pop("without", ""), None)
    config = load(tmp_path, raw)
    assert config.special_tokens == special_tokens
    assert config.data_spec(None).special_tokens == special_tokens
    assert len(config.notes) == n_notes


def test_a_seed_of_the_data_wins(tmp_path: Path):
    task = FLAT["task_config"]
    for seed, expected in ((None, 11), (0, 0), (5, 5)):
        raw = {**FLAT, "task_config": {**task, "dataset_seed": seed}}
        assert load(tmp_path, raw).data_spec(None).seed == expected


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"use_global_ci": True, "ci_fn_type": "shared_mlp"}, "global_shared_mlp"),
        ({"ci_fn_type": "global_shared_mlp"}, "global_shared_mlp"),
        (
            {"use_global_ci": True, "ci_fn_type": "global_reverse_residual"},
            "global_reverse_residual",
        ),
        ({"use_global_ci": False, "ci_fn_type": "shared_mlp"}, None),
    ],
)
def test_global_functions_before_ci_config(
    tmp_path: Path, changes: dict[str, Any], kind: str | None
):
    raw = {key: value for key, value in FLAT.items() if key != "ci_config"}
    config = load(tmp_path, {**raw, "ci_fn_hidden_dims": [6], **changes})
    assert (config.global_ci.fn_type if config.global_ci else None) == kind
    if kind == "global_shared_mlp":
        assert config.global_ci.hidden_dims == (6,)


def test_the_order_of_steps_follows_the_age(tmp_path: Path):
    ci = {"mode": "global", "fn_type": "global_reverse_residual", "d_resid_ci_fn": 4}
    for raw, older in (
        ({**FLAT, "ci_config": ci}, False),
        ({**FLAT, "ci_config": {**ci, "transition_hidden_dim": None}}, False),
        ({k: v for k, v in FLAT.items() if k != "autocast_bf16"} | {"ci_config": ci}, True),
        (nested("pd", ci_config=ci), False),
    ):
        assert load(tmp_path, raw).global_ci.reads_before_transition == older


def test_a_global_name_needs_no_mode(tmp_path: Path):
    ci = {"fn_type": "global_shared_mlp", "hidden_dims": [4]}
    assert load(tmp_path, {**FLAT, "ci_config": ci}).global_ci.hidden_dims == (4,)


def test_an_unknown_mode_is_named(tmp_path: Path):
    with pytest.raises(HarvestError, match="sideways"):
        load(tmp_path, {**FLAT, "ci_config": {"mode": "sideways"}})


def test_heads_that_do_not_divide_are_named(tmp_path: Path):
    sizes = TRANSFORMER["simple_transformer_ci_cfg"] | {"attn_config": {"n_heads": 3}}
    with pytest.raises(HarvestError, match="n_heads"):
        load(
            tmp_path,
            {**FLAT, "ci_config": {**TRANSFORMER, "simple_transformer_ci_cfg": sizes}},
        )
