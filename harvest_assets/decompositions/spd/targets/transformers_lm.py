"""Any causal language model of `transformers`, from its config."""

from __future__ import annotations

import reprlib
from typing import Any, cast

import torch
from torch import nn

from harvest_assets.decompositions.spd.targets.weightless import build_weightless
from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.unwritable import advice

_AUTO = "AutoModelForCausalLM"
# Other values name repositories whose code would be run.
_IMPLEMENTATIONS = (
    None,
    "eager",
    "sdpa",
    "flash_attention_2",
    "flash_attention_3",
    "flex_attention",
)


def build_transformers_lm(class_path: str, source: str) -> nn.Module:
    """Build a `transformers` causal language model, without its weights.

    Args:
        class_path: `transformers.<class>`, or the same below the module that defines it, such as
            `transformers.models.gpt2.modeling_gpt2.GPT2LMHeadModel`.
        source: hub name or local folder of its `config.json`.

    Raises:
        HarvestError: `transformers` has no such causal LM, or the config is not there or another's.
    """
    import transformers

    model_class = _causal_lm(class_path)
    class_name = model_class.__name__
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # hub clients of many versions: each raises what it likes
        reason = f"{reason_of(error)}.{advice(error)}"
        raise HarvestError(
            f"The config of the target model {source!r} cannot be read: {reason}"
        ) from error
    if class_name != _AUTO:
        config = _own_config(model_class, config, source)
    # Older versions know only the second name, newer ones warn of it.
    setattr(config, "dtype" if hasattr(config, "dtype") else "torch_dtype", torch.float32)
    config.use_cache = False
    _check_attention(config, source)

    def build() -> nn.Module:
        if class_name == _AUTO:
            return cast("nn.Module", model_class.from_config(config, trust_remote_code=False))
        return cast("nn.Module", model_class(config))

    try:
        return build_weightless(build)
    except HarvestError:
        raise
    except Exception as error:  # so are the models
        raise HarvestError(
            f"transformers.{class_name} cannot be built from the config of {source!r}: "
            f"{reason_of(error)}."
        ) from error


def _causal_lm(class_path: str) -> Any:
    """The class with this very name and place, if it is one of a causal language model."""
    import transformers

    package, _, class_name = class_path.rpartition(".")
    model_class = getattr(transformers, class_name, None)
    is_causal_lm = isinstance(model_class, type) and (
        class_name == _AUTO
        or (
            issubclass(model_class, transformers.PreTrainedModel)
            and class_name.endswith(("ForCausalLM", "LMHeadModel"))
        )
    )
    if not is_causal_lm or not f"{model_class.__module__}.".startswith(f"{package}."):
        raise HarvestError(
            f"pretrained_model_class {class_path!r} is unknown; known of transformers are {_AUTO}, "
            "GPT2LMHeadModel and every <X>ForCausalLM of the installed version "
            f"{transformers.__version__}."
        )
    return model_class


def _check_attention(config: Any, source: str) -> None:
    """Refuse an attention implementation that would be fetched from the hub, as that is code.

    Raises:
        HarvestError: the config asks for one.
    """
    parts = [config, *(value for value in vars(config).values() if hasattr(value, "model_type"))]
    for part in parts:
        for name, asked in vars(part).items():
            names_code = name.endswith(("_implementation", "_implementation_internal"))
            if names_code and asked not in _IMPLEMENTATIONS:
                raise HarvestError(
                    f"{source!r} asks for the {name.strip('_')} {reprlib.repr(asked)}."
                )


def _own_config(model_class: Any, config: Any, source: str) -> Any:
    """The part of a config that is of this class: all of it, or that of the text model."""
    for candidate in (config, config.get_text_config()):
        if isinstance(candidate, model_class.config_class):
            return candidate
    raise HarvestError(
        f"{source!r} is the config of a {config.model_type}, not of a {model_class.__name__}."
    )
