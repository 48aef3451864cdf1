"""The target model with its own weights, from where its training left them or from an SPD run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harvest_assets.decompositions.dictionaries.config import TargetConfig, local_path, resolved
from harvest_assets.decompositions.dictionaries.hub import fetch_folder
from harvest_assets.errors import HarvestError
from harvest_assets.files.untrusted import read_json
from harvest_assets.wandb_client.run_name import is_run_name

if TYPE_CHECKING:
    import torch
    from torch import nn

_TRANSFORMERS = "transformers."
_INDEX = "model.safetensors.index.json"
_ONE_FILE = ("model.safetensors", "pytorch_model.bin")
_TRAINING_CONFIGS = ("model_config.yaml", "final_config.yaml", "ln-stds.json")
_STEP = re.compile(r"model_step_([0-9]{1,18})\.pt")
_MAX_FILES = 1000


@dataclass(frozen=True)
class TargetFiles:
    """Where a target model is.

    Args:
        source: what its architecture is built from: a folder, a checkpoint, or a `wandb:` name.
        configs: the files that describe the architecture.
        weights: the files of weights.
    """

    source: str
    configs: tuple[str, ...]
    weights: tuple[str, ...]


def find_target(config: TargetConfig, folder: Path) -> TargetFiles:
    """Find the files of a target model; those of the hub or of W&B are downloaded.

    Args:
        config: `target` of `dictionaries.yaml`.
        folder: that relative paths start from.

    Raises:
        HarvestError: one is not there or cannot be fetched.
    """
    given = None if config.weights is None else Path(resolved(folder, config.weights))
    if given is not None and not given.exists():
        raise HarvestError(f"The weights {given} of the target model do not exist.")
    if config.model_class.startswith(_TRANSFORMERS):
        source, configs = _transformers_model(config.name, folder, with_weights=given is None)
        weights = given or Path(source)
    else:
        source, configs, weights = _trained_model(config.name, folder)
        weights = given or weights
    files = _weight_files(weights) if weights.is_dir() else (weights,)
    return TargetFiles(source, tuple(map(str, configs)), tuple(map(str, files)))


def open_target(
    config: TargetConfig, files: TargetFiles, device: torch.device
) -> tuple[nn.Module, int]:
    """The target model on a device, in float32, and how many weights its files hold.

    Raises:
        HarvestError: its class is not known, weights are missing or do not fit, or its W&B name
            finds other files than it did.
    """
    from harvest_assets.decompositions.spd.checkpoint import TARGET, Checkpoint
    from harvest_assets.decompositions.spd.target_weights import load_target_weights
    from harvest_assets.decompositions.spd.targets import build_target
    from harvest_assets.decompositions.spd.targets.pretrain_config import target_folder

    if _is_on_wandb(files.source) and not config.model_class.startswith(_TRANSFORMERS):
        found, verified = target_folder(files.source), Path(files.configs[0]).parent
        if found != verified:
            raise HarvestError(
                f"{files.source} was verified in {verified}, but is found in {found} too; remove "
                "one, or materialize run_checkpoint and harvest_plan again."
            )
    target = build_target(config.model_class, files.source)
    weights = _named_as_in(target, _own_weights(files.weights))
    state = {TARGET + name: weight for name, weight in weights.items()}
    checkpoint = Checkpoint(Path(files.weights[0]), state)
    load_target_weights(target, checkpoint, device)
    return target, checkpoint.n_weights


def _transformers_model(
    name: str, folder: Path, *, with_weights: bool
) -> tuple[str, Sequence[Path]]:
    source = Path(resolved(folder, name))
    if not source.is_dir():
        weights = ["*.safetensors", _INDEX] if with_weights else []
        source = fetch_folder(name, ["config.json", *weights])
    return str(source), [source / "config.json"]


def _trained_model(name: str, folder: Path) -> tuple[str, Sequence[Path], Path]:
    """A model that simple_stories_train trained: source, configs, file of weights."""
    from harvest_assets.decompositions.spd.targets.pretrain_config import target_folder

    on_wandb = _is_on_wandb(name)
    source = name if on_wandb else str(local_path(folder, name))
    found = target_folder(source)
    weights = _newest(found) if on_wandb else Path(source)
    return source, [found / c for c in _TRAINING_CONFIGS if (found / c).is_file()], weights


def _is_on_wandb(source: str) -> bool:
    return is_run_name(source) or source.strip().startswith("wandb:")


def _newest(folder: Path) -> Path:
    """The checkpoint of most steps in the folder of a training run."""
    steps = {
        int(match[1]): path
        for place in (folder, folder / "checkpoints")
        if place.is_dir()
        for path in place.iterdir()
        if (match := _STEP.fullmatch(path.name))
    }
    if not steps:
        raise HarvestError(f"{folder} has no checkpoint model_step_<n>.pt; name target.weights.")
    return steps[max(steps)]


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """The files of weights in a folder that `save_pretrained` wrote."""
    index = folder / _INDEX
    if index.is_file():
        return _indexed(index)
    for name in _ONE_FILE:
        if (folder / name).is_file():
            return (folder / name,)
    raise HarvestError(f"{folder} has none of {', '.join((_INDEX, *_ONE_FILE))}.")


def _indexed(index: Path) -> tuple[Path, ...]:
    try:
        content = read_json(index)
        names = sorted(set(content["weight_map"].values()))
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise HarvestError(f"{index} is not a valid index of weights.") from error
    if len(names) > _MAX_FILES or not all(Path(name).name == name for name in names):
        raise HarvestError(f"{index} names files that are not beside it, or too many.")
    return tuple(index.parent / name for name in names)


def _own_weights(files: Sequence[str]) -> dict[str, torch.Tensor]:
    """The target's weights in files; of an SPD run's checkpoint, those of its target."""
    from harvest_assets.decompositions.dictionaries.weights import open_tensors
    from harvest_assets.decompositions.spd.checkpoint import TARGET

    weights: dict[str, torch.Tensor] = {}
    for file in files:
        weights.update(open_tensors(Path(file)))
    of_a_run = {k.removeprefix(TARGET): v for k, v in weights.items() if k.startswith(TARGET)}
    return of_a_run or weights


def _named_as_in(target: nn.Module, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights by their names in the target; files of a base model lack its prefix."""
    own = target.state_dict().keys()
    prefix = f"{getattr(target, 'base_model_prefix', '')}."
    return {
        prefix + name if name not in own and prefix + name in own else name: weight
        for name, weight in weights.items()
    }
