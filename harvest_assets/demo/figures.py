"""The figures of docs/plots.md: `python -m harvest_assets.demo.figures docs` after a demo."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

import harvest_assets
from harvest_assets.files import layout
from harvest_assets.notebook.plots.plot import Plot
from harvest_assets.store.registry import registration_for
from harvest_assets.wandb_client.run_name import parse_run

_DPI = 120
_CLEAR = "h.0.attn.v_proj:16"  # fires on the beginnings of conditions


def main() -> None:
    """Write the figures into the folder that is given."""
    folder = Path(sys.argv[1])
    demo = registration_for(parse_run(str(layout.out_dir() / "demo"))).out_name
    harvest = harvest_assets.open(demo)
    component = harvest[_CLEAR]
    near = component.fires_with(7)["component_key"].to_list()
    plots = {
        "density": harvest.plot.density(),
        "ci": harvest.plot.ci_against_density(),
        "layers": harvest.plot.layers(),
        "cofiring": harvest.plot.cofiring([component.key, *near]),
        "tokens": component.plot.tokens(side="predicts", by="pmi"),
        "contexts": component.plot.contexts(),
    }
    for name, plot in plots.items():
        _save(plot, folder / f"plot-{name}.png")


def _save(plot: Plot, file: Path) -> None:
    plot.save(file, dpi=_DPI)
    picture = Image.open(file).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


if __name__ == "__main__":
    main()
