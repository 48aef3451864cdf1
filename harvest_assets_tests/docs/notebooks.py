"""The notebooks of the documentation, executed, and as pages of the site.

`python -m harvest_assets_tests.docs.notebooks` executes them and stores their outputs.
"""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
_SHOWN_PLACE = "/home/me/spd_out"
_TIMEOUT = 300  # seconds a cell


def notebooks() -> list[Path]:
    """Their files."""
    return sorted(FOLDER.glob("*.ipynb"))


def executed(notebook: Path, folder: Path) -> Any:
    """A notebook with its outputs, executed in an empty folder; offline, and on the CPU."""
    from nbclient import NotebookClient

    found = nbformat.read(notebook, as_version=4)
    commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    changed = {
        "PATH": commands,
        "SPD_OUT_DIR": str(folder / "spd_out"),
        "DAGSTER_HOME": str(folder / "dagster"),
        "HARVEST_DEVICE": "cpu",
        "HF_HUB_OFFLINE": "1",
    }
    place = {"metadata": {"path": str(folder)}}
    client = NotebookClient(found, timeout=_TIMEOUT, kernel_name="python3", resources=place)
    client.execute(env={**os.environ, **changed})
    return found


def page_of(notebook: Path, page: Path) -> None:
    """Write a notebook as a page in Markdown, its pictures beside it."""
    from nbconvert import MarkdownExporter

    names = {"unique_key": page.stem, "output_files_dir": f"{page.stem}_files"}
    text, resources = MarkdownExporter().from_filename(str(notebook), resources=names)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, "utf-8")
    for name, content in resources["outputs"].items():
        (page.parent / name).parent.mkdir(exist_ok=True)
        (page.parent / name).write_bytes(content)


def store(notebook: Path) -> None:
    """Execute a notebook and store it with its outputs, small and without this machine's paths."""
    with tempfile.TemporaryDirectory() as folder:
        found = executed(notebook, Path(folder))
        for cell in found.cells:
            cell.metadata = {}
            for output in cell.get("outputs", ()):
                _shorten(output.get("data", {}))
                if "text" in output:  # a terminal's line ends
                    output["text"] = output["text"].replace("\r\n", "\n")
        found.metadata.pop("widgets", None)
        text = nbformat.writes(found).replace(str(Path(folder) / "spd_out"), _SHOWN_PLACE)
    notebook.write_text(text + "\n", "utf-8")


def _shorten(data: dict[str, str]) -> None:
    if "image/png" in data:
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
        smaller = io.BytesIO()
        picture.quantize(64, dither=Image.Dither.NONE).save(smaller, "png", optimize=True)
        data["image/png"] = base64.b64encode(smaller.getvalue()).decode()


if __name__ == "__main__":
    for each in notebooks():
        store(each)
