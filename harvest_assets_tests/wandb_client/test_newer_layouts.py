"""Runs of 2026 have other names for their folders, configs and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harvest_assets.errors import HarvestError
from harvest_assets.wandb_client.run_files import choose_checkpoint, fetch_run
from harvest_assets.wandb_client.run_name import parse_run

NAME = "goodfire/param-decomp/p-0123abcd"


@pytest.fixture
def put(out_dir: Path) -> Callable[[str, Sequence[str]], Path]:
    def written(folder: str, files: Sequence[str]) -> Path:
        path = out_dir / "runs" / folder
        for file in files:
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).write_text("a: 1\n")
        return path

    return written


@pytest.mark.parametrize("folder", ["p-0123abcd", "param-decomp-p-0123abcd"])
@pytest.mark.parametrize("config", ["final_config.yaml", "run_meta.yaml", "experiment_config.yaml"])
def test_both_cache_folders_and_all_configs(
    put: Callable[[str, Sequence[str]], Path], folder: str, config: str
):
    path = put(folder, [config, "model_7.pth", "model_30.pth", "training_400.pth", "x.yaml"])
    files = fetch_run(parse_run(NAME))
    assert (files.config, files.checkpoint) == (path / config, path / "model_30.pth")
    assert files.step == 30


def test_the_flat_config_wins(put: Callable[[str, Sequence[str]], Path]):
    path = put("p-0123abcd", ["run_meta.yaml", "final_config.yaml", "model_7.pth"])
    assert fetch_run(parse_run(NAME)).config == path / "final_config.yaml"
    assert fetch_run(parse_run(str(path))).config == path / "final_config.yaml"
    assert fetch_run(parse_run(str(path / "model_7.pth"))).config == path / "final_config.yaml"


def test_the_optimizer_is_never_taken():
    assert choose_checkpoint(["training_10.pth", "model_9.pth"]) == "model_9.pth"
    assert choose_checkpoint(["training_10.pth"]) is None


def test_a_run_in_jax_is_refused(put: Callable[[str, Sequence[str]], Path]):
    path = put("p-0123abcd", ["run_meta.yaml", "checkpoints.orbax/_CHECKPOINT_METADATA"])
    with pytest.raises(HarvestError, match="JAX"):
        fetch_run(parse_run(str(path)))


def test_a_folder_without_any_config_is_named(put: Callable[[str, Sequence[str]], Path]):
    path = put("p-0123abcd", ["model_7.pth"])
    with pytest.raises(HarvestError, match=r"final_config\.yaml.*run_meta\.yaml"):
        fetch_run(parse_run(str(path)))
