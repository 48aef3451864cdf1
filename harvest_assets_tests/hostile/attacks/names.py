"""Attacks that are names of runs, of folders and of files on W&B."""

from __future__ import annotations

import os
from pathlib import Path

from harvest_assets.loaders import load_activation_contexts_summary
from harvest_assets.store.registry import registration_for
from harvest_assets.wandb_client.run_files import choose_checkpoint
from harvest_assets.wandb_client.run_name import RunName, parse_run
from harvest_assets_tests.hostile.attacks.registry import attack, refused


@attack("name of a run", "parts that leave their folder")
def _(_folder: Path) -> bool:
    parts = (
        "..",
        ".",
        "a/b",
        "a\\b",
        "a\0b",
        "",
        " a",
        "a\n",
        "x" * 201,
        "\u202e",
        "a...b",
        "\ud800",
    )
    run_id = "aaaaaaaa"
    return all(
        refused(lambda p=part: RunName(p, "b", run_id))
        and refused(lambda p=part: RunName("a", p, run_id))
        and refused(lambda p=part: RunName("a", "b", p))
        for part in parts
    )


@attack("name of a run", "an address whose parts are quoted slashes")
def _(_folder: Path) -> bool:
    names = ("%2e%2e", "..%2f..", "a%00b", "%2fetc", "a%5c..", "x" * 300)
    page = "https://wandb.ai/{}/b/runs/aaaaaaaa"
    return all(refused(lambda n=name: parse_run(page.format(n))) for name in names)


@attack("name of a run", "a harvest outside of its folder")
def _(folder: Path) -> bool:
    os.environ["SPD_OUT_DIR"] = str(folder)
    names = ("..", ".", "a\0b", "", "a/..", "a\\b", ".hidden", "x" * 300, "\n")
    return all(refused(lambda n=name: load_activation_contexts_summary(n)) for name in names)


@attack("name of a run", "an output folder that leaves")
def _(folder: Path) -> bool:
    os.environ["SPD_OUT_DIR"] = str(folder)
    names = ("..", "../x", "/x", "a/b", "a\0b", ".x", "x" * 300, "a\nb", "a\\b")
    reference = parse_run("a/b/aaaaaaaa")
    return all(refused(lambda n=name: registration_for(reference, n)) for name in names)


@attack("files of a run on W&B", "a checkpoint whose name is a path")
def _(_folder: Path) -> bool:
    names = (
        "model/../../../outside/kept.pth",
        "model_1/../../x.pth",
        "model\\..\\x.pth",
        "model\0.pth",
        "model" + "x" * 300 + ".pth",
        "model_" + "9" * 5000 + ".pth",
        "/model_1.pth",
    )
    return all(choose_checkpoint([name]) is None for name in names)
