"""Prints all trials of the harvest in a folder, for a test in another process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from harvest_assets.autointerp.material import Material
from harvest_assets.autointerp.trials import Method, draw_trials
from harvest_assets.files.layout import HarvestLayout


def all_trials(material: Material, seed: int) -> list[str]:
    return [
        repr(draw_trials(material, component, method, seed))
        for component in material.components.values()
        for method in Method
    ]


if __name__ == "__main__":
    print(json.dumps(all_trials(Material(HarvestLayout(Path(sys.argv[1]))), 7)))
