from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from harvest_assets.decompositions.spd.run_config import RunConfig, load_run_config
from harvest_assets.errors import HarvestError

MODULES = [{"module_pattern": "h.*.c_fc", "C": 7}, {"module_pattern": "wte", "C": 7}]
TODAY = {
    "seed": 4,
    "module_info": MODULES,
    "identity_module_info": [{"module_pattern": "h.1.c_fc", "C": 7}],
    "ci_fn_type": "mlp",
    "ci_fn_hidden_dims": [3, 4],
    "pretrained_model_class": "transformers.GPT2LMHeadModel",
    "pretrained_model_name": "somebody/model",
    "tokenizer_name": "somebody/tokenizer",
    "task_config": {"task_name": "lm"},
}
OLD = {
    "seed": 4,
    "C": 7,
    "target_module_patterns": ["h.*.c_fc", "wte"],
    "identity_module_patterns": ["h.1.c_fc"],
    "gate_type": "mlp",
    "gate_hidden_dims": [3, 4],
    "pretrained_model_class": "transformers.GPT2LMHeadModel",
    "pretrained_model_name_hf": "somebody/model",
    "tokenizer_name": "somebody/tokenizer",
    "task_config": {"task_name": "lm"},
    # Deprecated keys that say nothing to a harvest.
    "m": None,
    "recon_coeff": None,
    "eval_metrics": [{"classname": "CI_L0"}],
    "lr_exponential_halflife": 0.5,
}


def _load(folder: Path, raw: dict[str, Any]) -> RunConfig:
    path = folder / "final_config.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return load_run_config(path)


def test_old_spellings_mean_the_same(tmp_path: Path):
    today = _load(tmp_path, TODAY)
    assert _load(tmp_path, OLD) == today
    assert _load(tmp_path, {**OLD, "pretrained_model_name": None}) == today
    assert _load(tmp_path, {**OLD, "module_info": None}) == today
    assert [(info.module_pattern, info.C) for info in today.decomposed_modules] == [
        ("h.*.c_fc", 7),
        ("wte", 7),
        ("h.1.c_fc.pre_identity", 7),
    ]


def test_a_newer_name_wins_over_an_older_one(tmp_path: Path):
    older = {
        "C": 99,
        "target_module_patterns": ["old"],
        "identity_module_patterns": ["old"],
        "gate_type": "old",
        "gate_hidden_dims": [99],
        "pretrained_model_name_hf": "old",
    }
    assert _load(tmp_path, {**TODAY, **older}) == _load(tmp_path, TODAY)


def test_defaults_are_those_of_the_format(tmp_path: Path):
    kept = {"module_info", "pretrained_model_class", "pretrained_model_name", "tokenizer_name"}
    config = _load(
        tmp_path,
        {**{key: TODAY[key] for key in kept}, "task_config": {"task_name": "lm"}},
    )
    assert (config.seed, config.ci_fn_type, config.ci_fn_hidden_dims) == (0, "vector_mlp", (8,))
    assert (config.sigmoid_type, config.sampling) == ("leaky_hard", "continuous")
    assert config.identity_module_info is None
    assert config.decomposed_modules == config.module_info


def test_the_name_of_a_target_wins_over_its_path(tmp_path: Path):
    both = _load(tmp_path, {**TODAY, "pretrained_model_path": "wandb:a/b/runs/aaaaaaaa"})
    assert both.target_name == "somebody/model"
    alone = {**TODAY, "pretrained_model_path": "wandb:a/b/runs/aaaaaaaa"}
    del alone["pretrained_model_name"]
    assert _load(tmp_path, alone).target_name == "wandb:a/b/runs/aaaaaaaa"


@pytest.mark.parametrize("more", [{}, {"ci_fn_type": "shared_mlp", "ci_fn_hidden_dims": [9]}])
def test_a_layerwise_ci_config_is_read(more: dict[str, Any], tmp_path: Path):
    later = {key: value for key, value in TODAY.items() if not key.startswith("ci_fn")} | more
    later["ci_config"] = {"mode": "layerwise", "fn_type": "mlp", "hidden_dims": [3, 4]}
    read = _load(tmp_path, later).model_copy(update={"notes_on_age": ()})
    assert read == _load(tmp_path, TODAY)


def test_a_threshold_that_everything_passes_is_warned_of(tmp_path: Path):
    normal = _load(tmp_path, {**TODAY, "sigmoid_type": "normal"})
    assert "'normal'" in normal.threshold_warning(1e-6)
    assert normal.threshold_warning(0.5) is None
    assert _load(tmp_path, TODAY).threshold_warning(1e-6) is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ci_config": {"mode": "local", "fn_type": "x"}}, "ci_config has the mode 'local'"),
        ({"ci_config": "global"}, "ci_config has the mode 'global'"),
        ({"module_info": None, "target_module_patterns": ["a"]}, "target_module_patterns must be"),
        (
            {"module_info": None, "target_module_patterns": "a", "C": 3},
            "must be a list of patterns, with one C",
        ),
        ({"module_info": None, "target_module_patterns": [], "C": 3}, "module_info: "),
        ({"module_info": None, "target_module_patterns": ["a"], "C": 0}, r"module_info\.0\.C: "),
        ({"sigmoid_type": "soft"}, "sigmoid_type: .*'leaky_hard', 'hard', 'normal', 'upper_leaky"),
        ({"sampling": "beta"}, "sampling: .*'continuous' or 'binomial'"),
        ({"ci_fn_hidden_dims": [0]}, r"ci_fn_hidden_dims\.0: "),
        ({"task_config": {"task_name": "tms"}}, "task_name is 'tms'; only 'lm' runs"),
        ({"pretrained_model_name": None}, "neither pretrained_model_name nor pretrained_model_pat"),
    ],
)
def test_what_is_wrong_is_reported(changes: dict[str, Any], sentence: str, tmp_path: Path):
    with pytest.raises(HarvestError, match=sentence) as caught:
        _load(tmp_path, {**TODAY, **changes})
    assert str(tmp_path / "final_config.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stated", [True, False, None])
@pytest.mark.parametrize("streaming", [True, False])
def test_a_config_older_than_the_second_shuffle_is_noted(
    stated: bool | None, streaming: bool, tmp_path: Path
):
    task = {"task_name": "lm", "streaming": streaming}
    if stated is not None:
        task["shuffle_each_epoch"] = stated
    config = _load(tmp_path, {**TODAY, "task_config": task})
    assert config.task_config.shuffle_each_epoch is (stated is not False)
    assert config.warnings(0.5, 512) == config.notes
    assert ["shuffle_each_epoch" in note for note in config.notes] == (
        [True] if stated is None and not streaming else []
    )
