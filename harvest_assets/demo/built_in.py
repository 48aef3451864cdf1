"""The built-in run, laid out as a folder like any other run's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml

from harvest_assets.demo.docstrings import read_docstrings
from harvest_assets.files import layout
from harvest_assets.files.atomic import atomic_path

RUN = Path(__file__).parent / "run"
DATASET = "docstrings"
TEXT_COLUMN = "text"
SETTINGS = {"n_batches": 64, "batch_size": 64, "activation_examples_per_component": 100}


def lay_out_demo() -> Path:
    """Copy the built-in run into `$SPD_OUT_DIR/demo`, and put this Python's docstrings beside it.

    The config's names of target, tokenizer and dataset become absolute paths. What is stored there
    already is replaced file by file.

    Returns:
        The run's folder.

    Raises:
        HarvestError: this Python has no docstrings to read.
    """
    folder = layout.out_dir() / "demo"
    texts = read_docstrings()
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted(path for path in RUN.rglob("*") if path.is_file()):
        place = folder / source.relative_to(RUN)
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(place) as temporary:
            shutil.copyfile(source, temporary)
    (folder / DATASET).mkdir(exist_ok=True)
    with atomic_path(folder / DATASET / "train.jsonl") as temporary:
        lines = (json.dumps({TEXT_COLUMN: text}) + "\n" for text in texts)
        temporary.write_text("".join(lines), encoding="utf-8")
    config = yaml.safe_load((RUN / "final_config.yaml").read_text(encoding="utf-8"))
    config["tokenizer_name"] = str(folder / config["tokenizer_name"])
    config["pretrained_model_path"] = str(folder / config["pretrained_model_path"])
    config["task_config"]["dataset_name"] = str(folder / config["task_config"]["dataset_name"])
    with atomic_path(folder / "final_config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return folder
