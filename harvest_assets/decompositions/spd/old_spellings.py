"""Other names of keys in configs and checkpoints, and what they are called here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from harvest_assets.decompositions.spd.ci_config import (
    LAYERWISE_NAMES,
    GlobalCI,
    current_ci_settings,
)
from harvest_assets.decompositions.spd.config_age import is_recent, notes_on_age
from harvest_assets.decompositions.spd.nested_config import (
    flat_config,
    is_nested,
    nested_names,
    output_attribute,
    refuse_extra_inputs,
)
from harvest_assets.errors import HarvestError

_Value = TypeVar("_Value")

_RENAMED = {
    "gate_type": "ci_fn_type",
    "gate_hidden_dims": "ci_fn_hidden_dims",
    "pretrained_model_name_hf": "pretrained_model_name",
}
# Lists of patterns that shared one C.
_PATTERNS = {
    "target_module_patterns": "module_info",
    "identity_module_patterns": "identity_module_info",
}

_PREFIXES = {
    "_gates.": "_ci_fns.",
    "ci_fn._ci_fns.": "_ci_fns.",
    "ci_fn._global_ci_fn.": "_global_ci_fn.",
    "patched_model.": "target_model.",
}
_WRAPPED_COMPONENTS = re.compile(r"(?:target_model\.)?(.+)\.components\.(U|V|bias)")
_WRAPPED_WEIGHT = re.compile(r"(target_model\..+)\.original\.(weight|bias)")


def current_config(path: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run under the names they have now; a newer name wins over an older one.

    Args:
        path: of the config, for messages.
        raw: its content.

    Raises:
        HarvestError: patterns are given without their C, or `ci_config` has a mode that is not
            known.
    """
    refuse_extra_inputs(path, raw)
    nested = is_nested(raw)
    config = flat_config(path, raw) if nested else dict(raw)
    if "output_extract" in config:
        config["pretrained_model_output_attr"] = output_attribute(path, config["output_extract"])
    config.pop("global_ci", None)  # a name of ours
    recent = is_recent(config, is_nested=nested)
    config["special_tokens"] = not recent
    config["notes_on_age"] = notes_on_age(config, recent=recent)
    for old, new in _RENAMED.items():
        if config.get(new) is None and config.get(old) is not None:
            config[new] = config[old]
    for old, new in _PATTERNS.items():
        patterns = config.get(old)
        if config.get(new) is None and patterns is not None:
            if not isinstance(patterns, list) or "C" not in config:
                raise HarvestError(
                    f"{path}: {old} must be a list of patterns, with one C for all of them."
                )
            config[new] = [{"module_pattern": p, "C": config["C"]} for p in patterns]
    return config | current_ci_settings(path, config, recent=recent)


def own_names(path: Path, raw: Mapping[str, Any]) -> dict[str, str]:
    """What a config calls its settings, by the names that `current_config` gives them.

    Args:
        path: of the config, for messages.
        raw: its content, which `current_config` accepts.
    """
    nested = is_nested(raw)
    if nested:
        names = nested_names(path, raw)
    else:
        older = _RENAMED.items()
        names = {new: old for old, new in older if raw.get(new) is None and old in raw}
        if "output_extract" in raw:
            names["pretrained_model_output_attr"] = "output_extract"
    if (raw["pd"] if nested else raw).get("ci_config") is not None:
        ci_config = "pd.ci_config" if nested else "ci_config"
        names["global_ci"] = ci_config
        names |= {new: f"{ci_config}.{key}" for key, new in LAYERWISE_NAMES.items()}
    else:  # at the top of the config
        fields = GlobalCI.model_fields
        names |= {f"global_ci.{field}": LAYERWISE_NAMES.get(field, field) for field in fields}
    return names


def current_state(path: Path, state: Mapping[str, _Value]) -> dict[str, _Value]:
    """A state dict under the keys that checkpoints have now.

    Args:
        path: of the checkpoint, for messages.
        state: its content.

    Raises:
        HarvestError: a tensor is given under an older and a newer key.
    """
    renamed: dict[str, _Value] = {}
    for key, value in state.items():
        name = _current_key(key)
        if name in renamed:
            raise HarvestError(
                f"{path} has {name} twice, once as {key} in an older spelling or beside one."
            )
        renamed[name] = value
    return renamed


def _current_key(key: str) -> str:
    for old, new in _PREFIXES.items():
        if key.startswith(old):
            key = new + key.removeprefix(old)
    components = _WRAPPED_COMPONENTS.fullmatch(key)
    if components:
        return f"_components.{components[1].replace('.', '-')}.{components[2]}"
    weight = _WRAPPED_WEIGHT.fullmatch(key)
    return f"{weight[1]}.{weight[2]}" if weight else key
