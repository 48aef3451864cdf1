"""Any causal language model of `transformers`, from its config."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from harvest_assets.errors import HarvestError


def build_transformers_lm(class_name: str, source: str) -> nn.Module:
    """Build a `transformers` causal language model with weights yet to be loaded.

    Args:
        class_name: `AutoModelForCausalLM`, or the name of one class.
        source: hub name or local folder of its `config.json`.

    Raises:
        HarvestError: `transformers` has no such causal LM, or the config is not there or another's.
    """
    import transformers

    model_class: Any = getattr(transformers, class_name, None)
    if class_name != "AutoModelForCausalLM" and not _is_causal_lm(model_class):
        msg = f"transformers.{class_name} is no causal language model of transformers."
        raise HarvestError(msg)
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        msg = f"The config of the target model {source!r} cannot be read: {_first_line(error)}"
        raise HarvestError(msg) from error
    try:
        if class_name == "AutoModelForCausalLM":
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        else:
            model = model_class._from_config(config, dtype=torch.float32)  # noqa: SLF001
    except (ValueError, AttributeError) as error:
        msg = f"{source!r} is no config of transformers.{class_name}: {_first_line(error)}"
        raise HarvestError(msg) from error
    return cast("nn.Module", model)


def _is_causal_lm(model_class: object) -> bool:
    import transformers

    return (
        isinstance(model_class, type)
        and issubclass(model_class, transformers.PreTrainedModel)
        and model_class.__name__.endswith(("ForCausalLM", "LMHeadModel"))
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
