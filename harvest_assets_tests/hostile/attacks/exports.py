"""Attacks by names: layers and components whose names become names of files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from harvest_assets_tests.faults import small_harvest
from harvest_assets_tests.faults.small_harvest import VOCAB, SmallHarvest
from harvest_assets_tests.hostile.attacks.registry import attack, refused
from harvest_assets_tests.viewer.synthetic import write_tokenizer

_NAMES = {
    "the folder above": "..",
    "a way out": "../outside",
    "an absolute path": "/etc",
    "a hidden file": ".hidden",
    "a line break": "a\nb",
}


def _harvest(folder: Path, layer: str) -> SmallHarvest:
    os.environ["SPD_OUT_DIR"] = str(folder)
    write_tokenizer(folder / "tokenizer", [f"<{i}>" for i in range(VOCAB)])
    extras = {"tokenizer_name": str(folder / "tokenizer"), "dataset_name": "d"}
    extras |= {"dataset_split": "train", "batch_size": "8"}
    root = folder / "harvest" / "x-aaaaaaaa"
    harvest = SmallHarvest(
        root, n_batches=1, n_shards=1, keep_firings=-1, config_extras=tuple(extras.items())
    )
    (_, n), second = small_harvest.LAYERS
    layers, small_harvest.LAYERS = small_harvest.LAYERS, ((layer, n), second)
    try:
        harvest.run()
    finally:
        small_harvest.LAYERS = layers
    return harvest


def _exports(harvest: SmallHarvest, folder: Path) -> list[Callable[[], object]]:
    from harvest_assets.sharing import delphi_cache, neuronpedia

    return [
        lambda: neuronpedia.export(harvest.paths, folder / "handed", lambda *_: None),
        lambda: delphi_cache.export(harvest.paths, folder / "handed", lambda *_: None),
    ]


for _name, _layer in _NAMES.items():

    @attack("exports", f"a layer of {_name}")
    def _(folder: Path, layer: str = _layer) -> bool:
        harvest = _harvest(folder, layer)
        before = {path for path in folder.rglob("*") if "handed" not in path.parts}
        done = [refused(export) for export in _exports(harvest, folder)]
        after = {path for path in folder.rglob("*") if "handed" not in path.parts}
        kept = [path for path in (folder / "handed").rglob("*") if path.is_file()]
        return all(done) and before == after and not kept


@attack("exports", "a layer of the number 10^30")
def _(folder: Path) -> bool:
    harvest = _harvest(folder, f"h.{'9' * 30}.mlp")
    return not any(refused(export) for export in _exports(harvest, folder))
