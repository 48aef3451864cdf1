"""The notebooks run, offline, from the first cell to the last."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harvest_assets_tests.docs.notebooks import executed, notebooks


@pytest.mark.slow
@pytest.mark.parametrize("notebook", notebooks(), ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path):
    cells = executed(notebook, tmp_path).cells
    outputs = [it for cell in cells if cell.cell_type == "code" for it in cell.outputs]
    printed = "".join(it.text for it in outputs if it.output_type == "stream")
    # A command that fails does not stop a notebook.
    assert not re.search(r"^(Error: |Traceback)", printed, re.MULTILINE)
    assert "harvest_assets.open(" in printed
    assert sum("image/png" in it.get("data", {}) for it in outputs) >= 4


def test_notebooks_are_stored_with_outputs_and_without_paths():
    for notebook in notebooks():
        text = notebook.read_text("utf-8")
        assert "image/png" in text
        assert "/tmp/" not in text  # noqa: S108
        assert len(text) < 400_000, notebook.name
