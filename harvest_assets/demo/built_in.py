"""The built-in run, laid out as a folder like any other run's."""

from __future__ import annotations

import json
import sys
import sysconfig
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from harvest_assets.demo.docstrings import read_docstrings
from harvest_assets.errors import HarvestError
from harvest_assets.files import layout
from harvest_assets.files.atomic import atomic_path
from harvest_assets.files.records import Record, sha256_of

RUN = Path(__file__).parent / "run"
CONFIG = "final_config.yaml"
DATASET = "docstrings"
TEXT_COLUMN = "text"
SETTINGS = {"n_batches": 16, "batch_size": 64, "activation_examples_per_component": 100}


@dataclass(frozen=True)
class _Reading:
    """Which Python the docstrings were read from, and the digest of the file they are in."""

    python: str
    sha256: str


_RECORD = Record(_Reading, "a record of what the demo has read")


def lay_out_demo() -> Path:
    """Copy the built-in run into `$SPD_OUT_DIR/demo`, and put this Python's docstrings beside it.

    The config's names of target, tokenizer and dataset become absolute paths. What is stored there
    with another content is replaced file by file; the rest is not touched, so that a harvest of it
    is seen to be finished.

    Returns:
        The run's folder.

    Raises:
        HarvestError: this Python has no docstrings to read.
    """
    folder = layout.out_dir() / "demo"
    _lay_out_docstrings(folder)
    for source in sorted(path for path in RUN.rglob("*") if path.is_file()):
        if source.name != CONFIG:
            _write(folder / source.relative_to(RUN), source.read_bytes())
    config = yaml.safe_load((RUN / CONFIG).read_text(encoding="utf-8"))
    config["tokenizer_name"] = str(folder / config["tokenizer_name"])
    config["pretrained_model_path"] = str(folder / config["pretrained_model_path"])
    config["task_config"]["dataset_name"] = str(folder / config["task_config"]["dataset_name"])
    _write(folder / CONFIG, yaml.safe_dump(config, sort_keys=False).encode())
    return folder


def _lay_out_docstrings(folder: Path) -> None:
    """Write this Python's docstrings, unless they are there: reading them takes seconds."""
    file, record = folder / DATASET / "train.jsonl", folder / "docstrings.json"
    python = f"{sys.version} in {sysconfig.get_path('stdlib')}"
    with suppress(HarvestError, OSError):
        if _RECORD.read(record) == _Reading(python, sha256_of(file)):
            return
    texts = read_docstrings()
    lines = (json.dumps({TEXT_COLUMN: text}) + "\n" for text in texts)
    _write(file, "".join(lines).encode())
    _RECORD.write(record, _Reading(python, sha256_of(file)))


def _write(file: Path, content: bytes) -> None:
    """Write a file, complete or not at all, unless it has this content."""
    if file.is_file() and file.read_bytes() == content:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as temporary:
        temporary.write_bytes(content)
