"""Attacks on the config of a run and on that of its target model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from harvest_assets.decompositions.spd.run_config import ModuleInfo
from harvest_assets.decompositions.spd.targets import build_target
from harvest_assets_tests.hostile.attacks.payloads import evil_code, executes
from harvest_assets_tests.hostile.attacks.registry import attack, byte_attacks, refused

_GOOD_CONFIG = """\
seed: 0
module_info: [{module_pattern: h.*.mlp, C: 4}]
pretrained_model_class: transformers.LlamaForCausalLM
pretrained_model_name: x
tokenizer_name: x
task_config: {task_name: lm}
"""
_LAUGHS = "a0: &a0 [l,l,l,l,l,l,l,l,l]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40)
)
_MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 30)
)


def _config(**lines: str) -> bytes:
    kept = [line for line in _GOOD_CONFIG.splitlines() if line.partition(":")[0] not in lines]
    return "\n".join([*kept, *(f"{key}: {value}" for key, value in lines.items())]).encode()


byte_attacks(
    "run config",
    "config",
    {
        "a billion laughs": (_LAUGHS + _GOOD_CONFIG).encode(),
        "laughs in the task": (_LAUGHS + _GOOD_CONFIG.replace("{task_name: lm}", "*a39")).encode(),
        "laughs by merging": (_MERGES + _GOOD_CONFIG).encode(),
        "a list that holds itself": (_GOOD_CONFIG + "a: &a [*a]\n").encode(),
        "nested 100,000 deep": b"[" * 100_000,
        "mappings nested 50,000 deep": b"{a: " * 50_000,
        "longer than 256 kB": (_GOOD_CONFIG + "#" * (1 << 18)).encode(),
        "a key twice": (_GOOD_CONFIG + "seed: 1\n").encode(),
        "a python object": _config(seed="!!python/object/apply:os.mkdir [executed]"),
        "a python name": _config(seed="!!python/name:os.system"),
        "an own tag": _config(seed="!evil x"),
        "no UTF-8": _GOOD_CONFIG.encode() + b"a: \xff\xfe\n",
        "UTF-16": _GOOD_CONFIG.encode("utf-16"),
        "a zero byte": _GOOD_CONFIG.encode() + b"a: \0\n",
        "several documents": (_GOOD_CONFIG + "---\n" + _GOOD_CONFIG).encode(),
        "a number of 5000 digits": _config(seed="9" * 5000),
        "a seed of 10^400": _config(seed="1" + "0" * 400),
        "a seed of 10^30": _config(seed="1" + "0" * 30),
        "a negative seed": _config(seed="-1"),
        "a seed that is not a number": _config(seed=".nan"),
        "a seed to base 60": _config(seed="1" + ":59" * 2000),
        "a date that is none": _config(seed="2001-99-99"),
        "an empty integer": _config(seed='!!int ""'),
        "a truth that is none": _config(seed="!!bool maybe"),
        "a date by a tag": _config(seed="!!timestamp x"),
        "C of 10^12": _config(module_info="[{module_pattern: a, C: 1000000000000}]"),
        "C of 0": _config(module_info="[{module_pattern: a, C: 0}]"),
        "C of infinity": _config(module_info="[{module_pattern: a, C: .inf}]"),
        "10^4 patterns": _config(module_info="[" + "{module_pattern: a, C: 1}," * 4200 + "]"),
        "a pattern of 100,000 stars": _config(
            module_info="[{module_pattern: '" + "*a" * 50_000 + "', C: 1}]"
        ),
        "a context of 10^12": _config(task_config="{task_name: lm, max_seq_len: 1000000000000}"),
        "a buffer of 10^12": _config(task_config="{task_name: lm, buffer_size: 1000000000000}"),
        "a hidden size of 10^12": _config(ci_fn_hidden_dims="[1000000000000]"),
        "1000 hidden layers": _config(ci_fn_hidden_dims="[" + "1," * 1000 + "]"),
        "a name of 100,000 characters": _config(tokenizer_name="x" * 100_000),
        "a list as a name": _config(tokenizer_name="[a]"),
        "a mode of many entries": _config(ci_config="{mode: [" + "a," * 1000 + "]}"),
        "nothing": b"",
        "a number": b"3",
    },
)
byte_attacks(
    "target config",
    "model-config",
    {
        "a vocabulary of 10^15": b"vocab_size: 1000000000000000",
        "10^12 layers": b"n_layer: 1000000000000",
        "a block of 10^12": b"block_size: 1000000000000",
        "a base of infinity": b"rotary_base: .inf",
        "a base that is not a number": b"rotary_base: .nan",
        "heads of infinity": b"n_head: .inf",
        "laughs": _LAUGHS.encode(),
    },
)


def _llama(folder: Path, **changes: Any) -> Path:
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "evil.py").write_text(evil_code(folder))
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 9}
    config = {"model_type": "llama", "num_attention_heads": 2, **sizes, **changes}
    (model / "config.json").write_text(json.dumps(config))
    return model


_CODE = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
_AUTO = "transformers.AutoModelForCausalLM"
for _name, _class, _changes in (
    ("code beside an unknown model", _AUTO, {"model_type": "evil", "auto_map": _CODE}),
    ("an attention out of a repository", _AUTO, {"attn_implementation": "evil/kernel"}),
    ("the same under its other name", _AUTO, {"_attn_implementation": "evil/kernel:x"}),
    ("experts out of a repository", _AUTO, {"experts_implementation": "evil/kernel"}),
    ("a vocabulary of 10^15 in JSON", _AUTO, {"vocab_size": 10**15}),
    ("10^9 layers in JSON", _AUTO, {"num_hidden_layers": 10**9}),
    ("heads of 10^12", _AUTO, {"head_dim": 10**12}),
    ("a size that is a text", _AUTO, {"hidden_size": "x"}),
    ("a class that is no model", "transformers.pipeline", {}),
    ("a class of the standard library", "os.system", {}),
    ("a class by a path", "transformers.models.llama.../../evil.Evil", {}),
    ("a private class", "transformers.__dict__", {}),
):

    @attack("target config", _name)
    def _(folder: Path, name: str = _class, changes: dict[str, Any] = _changes) -> bool:
        return refused(lambda: build_target(name, str(_llama(folder, **changes))))


@attack("target config", "code beside a known model")
def _(folder: Path) -> bool:
    model = build_target(_AUTO, str(_llama(folder, auto_map=_CODE)))
    return type(model).__module__.startswith("transformers.models.llama.")


@attack("target config", "weights as a pickle beside the config")
def _(folder: Path) -> bool:
    model = _llama(folder)
    (model / "pytorch_model.bin").write_bytes(executes())
    built = build_target(_AUTO, str(model))  # the weights are the checkpoint's: none is read
    return all(parameter.is_meta for parameter in built.parameters())


@attack("target config", "a pattern that could take for ever")
def _(_folder: Path) -> bool:
    from harvest_assets.decompositions.spd.decomposed_layers import find_layers

    target = torch.nn.ModuleDict({"a" * 900: torch.nn.Linear(1, 1)})
    info = [ModuleInfo(module_pattern="*a" * 450 + "b", C=1)]
    return refused(lambda: find_layers(target, info))
