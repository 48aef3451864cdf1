"""Every mistake is answered by one sentence that names it, and harms nothing.

The table is tried twice: quickly, by dry runs in this process; and as people make the mistakes, by
the command itself, which takes seconds for each: some here, the others in the rehearsal.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from click.testing import CliRunner

from harvest_assets.cli.main import cli
from harvest_assets_tests.tiny_run import write_world

CHECKPOINT = "model_100.pth"
UP = "h-0-mlp-up_proj"


@dataclass
class Mistake:
    """What is done to a good run or to the command line, and what the answer must name."""

    named: tuple[str, ...]
    run: str | None = None
    options: tuple[str, ...] = ()
    spoil: Callable[[Path], None] = field(default=lambda _run: None)


def config(**changes: Any) -> Callable[[Path], None]:
    """Change keys of the config; `task_config` is changed key by key."""

    def spoil(run: Path) -> None:
        path = run / "final_config.yaml"
        value = yaml.safe_load(path.read_text())
        task = value["task_config"] | changes.get("task_config", {})
        path.write_text(yaml.safe_dump(value | changes | {"task_config": task}))

    return spoil


def state(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Change the state dict."""

    def spoil(run: Path) -> None:
        value = torch.load(run / CHECKPOINT, weights_only=True)
        change(value)
        torch.save(value, run / CHECKPOINT)

    return spoil


def without(name: str) -> Callable[[Path], None]:
    """Take a file of the run away."""
    return lambda run: (run / name).unlink()


def truncated(run: Path) -> None:
    whole = (run / CHECKPOINT).read_bytes()
    (run / CHECKPOINT).write_bytes(whole[: len(whole) // 2])


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def executes(run: Path) -> None:
    torch.save({"a": Evil()}, run / CHECKPOINT)


def imports(run: Path) -> None:
    (run / "evil_module.py").write_text("import os\nos.mkdir('executed')\nclass Evil: pass\n")
    config(pretrained_model_class="evil_module.Evil")(run)


def data(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Put a file beside the run's data file, changed from it, or change the data file itself."""

    def spoil(run: Path) -> None:
        folder = run.parent / "dataset"
        content = change((folder / "train.parquet").read_bytes())
        (folder / name).write_bytes(content)

    return spoil


def no_rows(run: Path) -> None:
    path = run.parent / "dataset" / "train.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)


def broken_json(run: Path) -> None:
    path = run.parent / "texts.jsonl"
    path.write_text('{"text": "one"}\n{"text": "tw')
    config(task_config={"dataset_name": str(path)})(run)


CARD = b"""---
dataset_info:
  features:
  - name: text
    dtype: string
  splits:
  - name: train
    num_examples: 61
---
"""


def pattern(*patterns: str) -> Callable[[Path], None]:
    return config(module_info=[{"module_pattern": p, "C": 12} for p in patterns])


MISTAKES = {
    "no such run": Mistake(("no-such-run",), run="no-such-run"),
    "no such local run": Mistake(("local/spd/aaaaaaaa",), run="local/spd/aaaaaaaa"),
    "no such folder": Mistake(("nowhere",), run="./nowhere"),
    "no run name": Mistake(("a/b/c/d/e",), run="a/b/c/d/e"),
    "a comma in the name": Mistake(("a,b",), run="a,b/spd/aaaaaaaa"),
    "no config": Mistake(("final_config.yaml",), spoil=without("final_config.yaml")),
    "no checkpoint": Mistake(("model_<integer>.pth",), spoil=without(CHECKPOINT)),
    "another step": Mistake(("model_7.pth", CHECKPOINT), options=("--step", "7")),
    "a config that is no YAML": Mistake(
        ("final_config.yaml",), spoil=lambda run: _write(run / "final_config.yaml", "a: [1\n- b")
    ),
    "a config without a key": Mistake(
        ("final_config.yaml", "pretrained_model_class"), spoil=config(pretrained_model_class=None)
    ),
    "a pattern that matches nothing": Mistake(("'h.*.c_fc'",), spoil=pattern("h.*.c_fc")),
    "a module matched twice": Mistake(
        ("h.0.mlp.up_proj", "twice"), spoil=pattern("*.up_proj", "*.0.mlp.up_proj")
    ),
    "a module that cannot be decomposed": Mistake(("ln_f",), spoil=pattern("ln_f")),
    "a missing key": Mistake(
        (CHECKPOINT, f"_components.{UP}.U"), spoil=state(lambda s: s.pop(f"_components.{UP}.U"))
    ),
    "another shape": Mistake(
        (CHECKPOINT, f"_components.{UP}.V", "[3, 3]"),
        spoil=state(lambda s: s.update({f"_components.{UP}.V": torch.zeros(3, 3)})),
    ),
    "a missing weight of the target": Mistake(
        (CHECKPOINT, "ln_f.weight"), spoil=state(lambda s: s.pop("target_model.ln_f.weight"))
    ),
    "a truncated checkpoint": Mistake((CHECKPOINT,), spoil=truncated),
    "a checkpoint that executes code": Mistake((CHECKPOINT, "safe"), spoil=executes),
    "a class outside the families": Mistake(
        ("transformers.BertModel",), spoil=config(pretrained_model_class="transformers.BertModel")
    ),
    "a class of somebody's module": Mistake(("evil_module.Evil",), spoil=imports),
    "an unknown CI function": Mistake(("'cnn'", "shared_mlp"), spoil=config(ci_fn_type="cnn")),
    "an unknown sigmoid": Mistake(("sigmoid_type", "leaky_hard"), spoil=config(sigmoid_type="x")),
    "another task": Mistake(("'tms'", "lm"), spoil=config(task_config={"task_name": "tms"})),
    "no dataset": Mistake(("/no/data",), spoil=config(task_config={"dataset_name": "/no/data"})),
    "no such split": Mistake(("'dev'",), spoil=config(task_config={"train_data_split": "dev"})),
    "no such column": Mistake(
        ("'prose'", "text"), spoil=config(task_config={"column_name": "prose"})
    ),
    "a truncated data file": Mistake(
        ("train-1.parquet", "magic bytes"), spoil=data("train-1.parquet", lambda good: good[:99])
    ),
    "a truncated JSON file": Mistake(("texts.jsonl", "parse error"), spoil=broken_json),
    "data without rows": Mistake(("train.parquet", "no rows"), spoil=no_rows),
    "a card that counts other rows": Mistake(
        ("dataset", "README.md", "61", "60"), spoil=data("README.md", lambda _good: CARD)
    ),
    "no tokenizer": Mistake(("/no/tokenizer",), spoil=config(tokenizer_name="/no/tokenizer")),
    "a context longer than the model's": Mistake(("65", "64"), options=("--context_length", "65")),
    "no rows in a batch": Mistake(("batch_size is 0",), options=("--batch_size", "0")),
    "negative batches": Mistake(("n_batches is -3",), options=("--n_batches", "-3")),
    "no batches": Mistake(("n_batches is 0",), options=("--n_batches", "0")),
    "no context": Mistake(("context_length is 0",), options=("--context_length", "0")),
    "a negative context": Mistake(("context_length is -2",), options=("--context_length", "-2")),
    "too many shards": Mistake(("n_shards is 17", "16"), options=("--n_shards", "17")),
    "no shards": Mistake(("n_shards is 0",), options=("--n_shards", "0")),
    "negative examples": Mistake(
        ("activation_examples_per_component is -1",),
        options=("--activation_examples_per_component", "-1"),
    ),
    "a threshold that is no number": Mistake(("ci_threshold",), options=("--ci_threshold", "nan")),
    "a negative threshold": Mistake(("ci_threshold",), options=("--ci_threshold", "-1")),
    "a folder name that leaves": Mistake(("../x",), options=("--out_name", "../x")),
}


# At least one for each place where the command finds a mistake.
BY_COMMAND = {
    "a config without a key",
    "a missing weight of the target",
    "a truncated checkpoint",
    "a checkpoint that executes code",
    "a class of somebody's module",
    "a truncated data file",
    "no tokenizer",
    "a context longer than the model's",
    "too many shards",
}


def _write(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.fixture
def good_run(tmp_path: Path) -> Path:
    return write_world(tmp_path / "world", n_texts=60)


@pytest.fixture
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of ours has been run before; answers the output folder."""
    for name in list(os.environ):
        if name.startswith(("HARVEST_", "DAGSTER_", "WANDB_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "out"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "out"


def _check_answer(status: int, stderr: str, named: tuple[str, ...]) -> None:
    assert status != 0
    assert "Traceback" not in stderr
    errors = [line for line in stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, stderr
    for name in named:
        assert name in errors[0], errors[0]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_dry_run_names_the_mistake(name: str, good_run: Path, clean_environment: Path):
    mistake = MISTAKES[name]
    mistake.spoil(good_run)
    arguments = [mistake.run or str(good_run), *mistake.options, "--dry-run"]
    result = CliRunner().invoke(cli, arguments)
    _check_answer(result.exit_code, result.stderr, mistake.named)
    assert not clean_environment.exists()
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in BY_COMMAND else pytest.mark.rehearsal)
        for name in MISTAKES
    ],
)
def test_the_command_names_the_mistake(name: str, good_run: Path, clean_environment: Path):
    mistake = MISTAKES[name]
    mistake.spoil(good_run)
    done = _command(mistake.run or str(good_run), *mistake.options)
    _check_answer(done.returncode, done.stderr, mistake.named)
    assert not list(clean_environment.rglob("*.pt"))
    assert not list(clean_environment.rglob("components.jsonl"))
    assert not Path("executed").exists()


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harvest_assets", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.usefixtures("clean_environment")
def test_debug_shows_the_traceback():
    result = CliRunner().invoke(cli, ["no-such-run", "--debug"])
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_an_output_folder_that_cannot_be_made(good_run: Path, clean_environment: Path):
    clean_environment.write_text("a file")
    done = _command(str(good_run))
    _check_answer(done.returncode, done.stderr, (str(clean_environment),))


@contextmanager
def _mounted(place: Path, options: str) -> Iterator[None]:
    """A small file system in memory; needs root."""
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize(
    ("on_shortage", "named"),
    [
        ("refuse", ("free some", "at its peak")),  # seen before the work is begun
        ("warn", ("No space left on device",)),
    ],
)
def test_a_full_disk_is_reported(
    good_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    on_shortage: str,
    named: tuple[str, ...],
):
    monkeypatch.setenv("HARVEST_ON_SHORTAGE", on_shortage)
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setenv("SPD_OUT_DIR", str(disk))
    with _mounted(disk, "size=400k"):
        done = _command(str(good_run), "--batch_size", "4")
        _check_answer(done.returncode, done.stderr, named)
        assert not list(disk.rglob("components.jsonl"))


@pytest.mark.slow
@pytest.mark.usefixtures("clean_environment")
def test_a_read_only_disk_is_reported(
    good_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setenv("SPD_OUT_DIR", str(disk))
    with _mounted(disk, "ro"):
        done = _command(str(good_run))
        _check_answer(done.returncode, done.stderr, (str(disk), "Read-only file system"))
