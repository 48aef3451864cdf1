"""The families of target models, built from their configs alone; the weights come elsewhere.

To add a family, write a file with a function `(class_path, source) -> nn.Module` and add one line
to `FAMILIES`. A class path that is not listed is never imported.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

from torch import nn

from harvest_assets.decompositions.spd.targets.gpt2_simple import build_gpt2_simple
from harvest_assets.decompositions.spd.targets.llama_simple import build_llama_simple
from harvest_assets.decompositions.spd.targets.llama_simple_mlp import build_llama_simple_mlp
from harvest_assets.decompositions.spd.targets.transformers_lm import build_transformers_lm
from harvest_assets.errors import HarvestError

# pattern of `pretrained_model_class` -> builder; `*` stands for a class and its module
FAMILIES: dict[str, Callable[[str, str], nn.Module]] = {
    "simple_stories_train.models.gpt2_simple.GPT2Simple": build_gpt2_simple,
    "simple_stories_train.models.llama_simple.LlamaSimple": build_llama_simple,
    "simple_stories_train.models.llama_simple_mlp.LlamaSimpleMLP": build_llama_simple_mlp,
    "transformers.*": build_transformers_lm,
}

# Training code moved several times; all these name the same classes.
_ALIASES = (
    "spd.pretrain.models.",
    "param_decomp.pretrain.models.",
    "param_decomp_lab.experiments.lm.pretrain.models.",
    "param_decomp.experiments.lm.pretrain.models.",
)


def build_target(class_path: str, source: str) -> nn.Module:
    """Build the architecture of a target model, in evaluation mode, its weights yet to be loaded.

    Args:
        class_path: `pretrained_model_class` of the run's config.
        source: hub name, local path or `wandb:` name.

    Raises:
        HarvestError: the class is unknown, or its config is not there or wrong.
    """
    for alias in _ALIASES:
        if class_path.startswith(alias):
            class_path = "simple_stories_train.models." + class_path.removeprefix(alias)
    for pattern, builder in FAMILIES.items():
        if fnmatchcase(class_path, pattern):
            return builder(class_path, source).eval()
    known = ", ".join(name.replace("*", "<any causal LM>") for name in FAMILIES)
    raise HarvestError(f"pretrained_model_class {class_path!r} is unknown; known are {known}.")
