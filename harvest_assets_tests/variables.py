"""The table of variables in `docs/variables.md`, made from the models that read them.

`make variables` writes the page.
"""

from __future__ import annotations

from pathlib import Path

from harvest_assets.orchestration.environment import UnattendedSettings
from harvest_assets.orchestration.slurm.settings import SlurmSettings
from harvest_assets.orchestration.wandb.settings import WatchSettings
from harvest_assets.settings import (
    ComputeSettings,
    EnvironmentModel,
    HarvestDefaults,
    LiveSettings,
    PreflightSettings,
    StorageSettings,
)

PAGE = Path(__file__).parents[1] / "docs" / "variables.md"
_HEADINGS: dict[type[EnvironmentModel], str] = {
    HarvestDefaults: "Defaults of the options",
    ComputeSettings: "Device",
    StorageSettings: "Storage",
    PreflightSettings: "Memory and disk",
    LiveSettings: "Questions to a model",
    WatchSettings: "Watching W&B",
    UnattendedSettings: "Unattended",
    SlurmSettings: "SLURM",
}
_BEGIN = """\
# Variables

What a deployment sets in the environment. A variable is read when it is needed, unless its row says
otherwise; one that is blank counts as not set. Switches take 1 or 0. This page is made by
`make variables`.

`SPD_OUT_DIR` (`~/spd_out`) is where results, runs and token rows are stored; `DAGSTER_HOME`
(`~/.local/share/harvest_assets/dagster`) is where Dagster records its work.
"""


def default_of(value: object) -> str:
    """A default as it would be typed; blank for none."""
    if isinstance(value, tuple):
        value = ",".join(value)
    if value is None or value == "":
        return ""
    return f"`{int(value) if isinstance(value, bool) else value}`"


def page() -> str:
    """The whole page."""
    parts = [_BEGIN]
    for model, heading in _HEADINGS.items():
        rows = [
            f"| `{model.spelling(name)}` | {default_of(field.default)} | {field.description} |"
            for name, field in model.model_fields.items()
        ]
        head = [f"## {heading}", "", "| variable | default | meaning |", "|---|---|---|"]
        parts.append("\n".join([*head, *rows, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
