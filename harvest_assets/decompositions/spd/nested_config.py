"""`run_meta.yaml` and `experiment_config.yaml`: configs in sections, read as a flat one.

Runs of `goodfire/param-decomp` (from March 2026 on) write one of these, or a flat
`final_config.yaml` that says `output_extract` for `pretrained_model_output_attr`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harvest_assets.errors import HarvestError

_PD = {
    "seed": "seed",
    "ci_config": "ci_config",
    "sampling": "sampling",
    "sigmoid_type": "sigmoid_type",
    "decomposition_targets": "module_info",
    "identity_decomposition_targets": "identity_module_info",
}
_DATA = {
    "dataset_name": "dataset_name",
    "column_name": "column_name",
    "max_seq_len": "max_seq_len",
    "train_split": "train_data_split",
    "is_tokenized": "is_tokenized",
    "streaming": "streaming",
    "buffer_size": "buffer_size",
    "shuffle_each_epoch": "shuffle_each_epoch",
}
_DATA_DEFAULTS = {"column_name": "text", "shuffle_each_epoch": True}
_EXTRA_INPUTS = "extra_input_module_patterns"
_VENDORED_KIND = "hf_weights_in_vendored"
# Copies of what `transformers` has under these names.
_VENDORED = ("GPT2LMHeadModel", "LlamaForCausalLM")
# Kinds of `target.spec`, and what each calls the name of the target.
_NAMES = {"hf": "model_name", "pretrained": "run_path", _VENDORED_KIND: "model_name"}


def is_nested(config: Mapping[str, Any]) -> bool:
    """Whether a config is in sections."""
    return "pd" in config or ("target" in config and "data" in config)


def flat_config(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config in sections, under the names of `final_config.yaml`.

    Args:
        path: of the config, for messages.
        config: its sections.

    Raises:
        HarvestError: a section is missing, or the run is of a kind that cannot be harvested.
    """
    reloader = str(config.get("reloader_class"))
    if "jax" in reloader.lower():
        raise HarvestError(
            f"{path}: reloader_class {reloader[:200]!r} is of a run in JAX, whose checkpoints do "
            "not hold the target model; runs in PyTorch can be harvested."
        )
    pd, target, data = (_section(path, config, name) for name in ("pd", "target", "data"))
    _require(path, "pd", pd, "decomposition_targets")
    for key in ("dataset_name", "tokenizer_name"):
        _require(path, "data", data, key)
    task = _DATA_DEFAULTS | _renamed(data, _DATA) | {"task_name": "lm"}
    return {
        **_renamed(pd, _PD),
        **_target(path, target),
        "tokenizer_name": data.get("tokenizer_name"),
        "task_config": task,
    }


def nested_names(path: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """What a config in sections calls the settings of the flat one, by their flat names.

    Args:
        path: of the config, for messages.
        config: its sections.

    Raises:
        HarvestError: as `flat_config`.
    """
    place, _, name = _spec(path, _section(path, config, "target"))
    return {
        **{flat: f"pd.{key}" for key, flat in _PD.items()},
        **{f"task_config.{flat}": f"data.{key}" for key, flat in _DATA.items()},
        "tokenizer_name": "data.tokenizer_name",
        "pretrained_model_class": f"{place}.model_class",
        "pretrained_model_name": f"{place}.{name}",
        "pretrained_model_output_attr": "target.output_extract",
        "target_weights_dtype": "target.weights_dtype",
    }


def refuse_extra_inputs(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse runs whose global CI function reads layers that are not decomposed.

    Raises:
        HarvestError: the config asks for that, at its top or in one of its sections.
    """
    sections = [config, *(value for value in config.values() if isinstance(value, dict))]
    sections += [
        value for part in sections[1:] for value in part.values() if isinstance(value, dict)
    ]
    if any(section.get(_EXTRA_INPUTS) for section in sections):
        raise HarvestError(
            f"{path}: {_EXTRA_INPUTS} gives the CI function inputs of layers that are not "
            "decomposed, in an order that is not known; such a run cannot be harvested."
        )


def output_attribute(path: Path, extract: Any) -> str | None:
    """`output_extract` as `pretrained_model_output_attr`: 0 is `idx_0`, -1 is `idx_-1`, the last.

    Raises:
        HarvestError: it is neither an integer, a string nor null.
    """
    if extract is None or isinstance(extract, str):
        return extract
    if isinstance(extract, int) and not isinstance(extract, bool):
        return f"idx_{extract}"
    raise HarvestError(
        f"{path}: output_extract is {reprlib.repr(extract)}; it must be an integer, a string or "
        "null."
    )


def _target(path: Path, target: Mapping[str, Any]) -> dict[str, Any]:
    place, spec, name = _spec(path, target)
    _require(path, place, spec, "model_class")
    _require(path, place, spec, name)
    model_class = spec["model_class"]
    return {
        "pretrained_model_class": _vendored(path, spec) if _is_vendored(spec) else model_class,
        "pretrained_model_name": spec[name],
        "pretrained_model_output_attr": output_attribute(
            path, target.get("output_extract", "logits")
        ),
        "target_weights_dtype": target.get("weights_dtype") or "float32",
    }


def _spec(path: Path, target: Mapping[str, Any]) -> tuple[str, Mapping[str, Any], str]:
    """Where a target is described: the section, its settings, and its key of the name."""
    spec = target.get("spec")
    if spec is None:
        has_path_only = target.get("model_path") and not target.get("model_name")
        return "target", target, "model_path" if has_path_only else "model_name"
    kind = spec.get("kind") if isinstance(spec, dict) else None
    if not isinstance(kind, str) or kind not in _NAMES:
        raise HarvestError(
            f"{path}: target.spec has the kind {reprlib.repr(kind)}, which cannot be harvested; "
            f"known are {', '.join(_NAMES)}."
        )
    return "target.spec", spec, _NAMES[kind]


def _is_vendored(spec: Mapping[str, Any]) -> bool:
    return spec.get("kind") == _VENDORED_KIND


def _vendored(path: Path, spec: Mapping[str, Any]) -> str:
    """The class of `transformers` that a vendored one is a copy of."""
    class_name = str(spec["model_class"]).rpartition(".")[2]
    if class_name not in _VENDORED:
        raise HarvestError(
            f"{path}: the target is {reprlib.repr(spec['model_class'])} with weights of "
            f"{reprlib.repr(spec.get('model_name'))}; of {_VENDORED_KIND} only "
            f"{' and '.join(_VENDORED)} can be harvested, which transformers has too."
        )
    return f"transformers.{class_name}"


def _section(path: Path, config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    if not isinstance(section, dict):
        raise HarvestError(
            f"{path} has no section {name!r}; pd, target and data are needed to harvest a run."
        )
    return section


def _require(path: Path, section: str, settings: Mapping[str, Any], key: str) -> None:
    if settings.get(key) is None:
        raise HarvestError(f"{path}: {section}.{key} is missing; a run cannot be read without it.")


def _renamed(section: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {new: section[old] for old, new in names.items() if old in section}
