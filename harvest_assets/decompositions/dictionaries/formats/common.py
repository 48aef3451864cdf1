"""What the readers of several formats need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pydantic

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.untrusted import read_json

_MAX_BYTES = 1 << 20
# Wider than any model, yet quick to refuse.
Width = Annotated[int, pydantic.Field(gt=0, le=1 << 24)]


class FormatConfig(pydantic.BaseModel):
    """A config file of another program; keys that do not matter to its encoder are ignored."""

    model_config = pydantic.ConfigDict(
        extra="ignore", frozen=True, populate_by_name=True, str_max_length=1000
    )


def read_config(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        HarvestError: it is unreadable, not JSON, or not a mapping.
    """
    try:
        raw = read_json(path, _MAX_BYTES)
    except (OSError, ValueError) as error:
        raise HarvestError(f"{path} cannot be read as JSON: {reason_of(error)}.") from error
    if not isinstance(raw, dict):
        raise HarvestError(f"{path} does not hold a mapping of settings.")
    return raw


def require_layer(path: Path, layer: int | None, *, is_cross_layer: bool) -> None:
    """Check that `layer` is given for a cross-layer transcoder and for nothing else.

    Raises:
        HarvestError: it is not.
    """
    if is_cross_layer and layer is None:
        raise HarvestError(f"{path} holds a cross-layer transcoder: give its layer.")
    if layer is not None and not is_cross_layer:
        raise HarvestError(f"{path} holds one dictionary, not several layers: leave out layer.")


def require_at_most(path: Path, name: str, k: float, n_latents: int) -> None:
    """Check the number of latents that fire.

    Raises:
        HarvestError: it is above their number.
    """
    if k > n_latents:
        raise HarvestError(f"{path}: {name} is {k:g}, but there are only {n_latents} latents.")
