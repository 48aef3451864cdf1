"""`model_config.yaml` of a target model that simple_stories_train trained."""

from __future__ import annotations

from pathlib import Path

from harvest_assets.errors import HarvestError
from harvest_assets.files.yaml_file import Schema, read_mapping, validated

_FILE = "model_config.yaml"


def target_folder(source: str) -> Path:
    """The folder that holds the files of a target's training run.

    Args:
        source: `<run>/checkpoints/model_step_<n>.pt`, or a W&B run in any accepted spelling.

    Raises:
        HarvestError: it is not there.
    """
    from harvest_assets.wandb_client.run_name import is_run_name, parse_run

    if is_run_name(source) or source.strip().startswith("wandb:"):
        from harvest_assets.wandb_client.run_files import fetch_target

        return fetch_target(parse_run(source).name)
    folder = Path(source).parent.parent
    if not (folder / _FILE).is_file():
        raise HarvestError(
            f"The target model {source!r} is not there: {folder / _FILE} is missing."
        )
    return folder


def read_model_config(class_path: str, source: str, schema: type[Schema]) -> Schema:
    """Read and check `model_config.yaml`.

    Args:
        class_path: of the target; the file must not name another.
        source: what `target_folder` takes.
        schema: the keys that matter, with their defaults.

    Raises:
        HarvestError: the file is unreadable, belongs to another class, or holds wrong values.
    """
    path = target_folder(source) / _FILE
    raw = read_mapping(path)
    class_name = class_path.rpartition(".")[2]
    stated = raw.get("model_type")
    if stated is not None and stated != class_name:
        raise HarvestError(f"{path} is the config of a {str(stated)[:100]}, not of a {class_name}.")
    return validated(path, raw, schema)
