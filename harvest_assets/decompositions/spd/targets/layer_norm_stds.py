"""Fixed standard deviations of a target's LayerNorms, which replace those of its activations."""

from __future__ import annotations

import math
from pathlib import Path

from harvest_assets.decompositions.spd.targets.pretrain_config import target_folder
from harvest_assets.errors import HarvestError
from harvest_assets.files.untrusted import read_json
from harvest_assets.files.yaml_file import read_mapping

_FILE = "ln-stds.json"
_CONFIG = "final_config.yaml"
_SWITCH = "enable_ln_ablation"


def read_fixed_stds(source: str) -> dict[str, float] | None:
    """The stds in `ln-stds.json`, by the LayerNorm's path; None if the target has no fixed ones.

    They count only where the target's `final_config.yaml` has `enable_ln_ablation: true`.

    Args:
        source: what `target_folder` takes.

    Raises:
        HarvestError: a file is missing or unreadable, or a std is not a number above 0.
    """
    folder = target_folder(source)
    config, stds = folder / _CONFIG, folder / _FILE
    if not config.is_file():
        if not stds.is_file():
            return None
        raise HarvestError(
            f"{config} is missing; it must say whether the stds in {stds.name} count."
        )
    return _read(stds) if read_mapping(config).get(_SWITCH) is True else None


def _read(path: Path) -> dict[str, float]:
    try:
        stds = read_json(path)
    except FileNotFoundError as error:
        raise HarvestError(
            f"{path.parent / _CONFIG} has {_SWITCH}: true, but {path} is missing."
        ) from error
    except (OSError, ValueError) as error:
        raise HarvestError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(stds, dict) or not all(
        type(std) in (int, float) and 0 < std < math.inf for std in stds.values()
    ):
        raise HarvestError(
            f"{path} must map the path of each LayerNorm to its std, a number above 0."
        )
    return {str(name): float(std) for name, std in stds.items()}
