"""The file formats of dictionaries, recognised by the files in a folder.

To add one, write a module with a function `(folder, layer) -> Encoder` and add a line to `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harvest_assets.errors import HarvestError

if TYPE_CHECKING:
    from harvest_assets.decompositions.dictionaries.encoder import Encoder


@dataclass(frozen=True)
class Format:
    """One format.

    Args:
        name: as results record it.
        files: names of the files that are read; `{layer}` is the layer of a cross-layer transcoder.
        open: reads them.
    """

    name: str
    files: tuple[str, ...]
    open: Callable[[Path, int | None], Encoder]

    def paths(self, folder: Path, layer: int | None) -> tuple[Path, ...]:
        """The files that are read."""
        return tuple(folder / name.format(layer=layer) for name in self.files)


def _sae_lens(folder: Path, layer: int | None) -> Encoder:
    from harvest_assets.decompositions.dictionaries.formats.sae_lens import open_sae_lens

    return open_sae_lens(folder, layer)


def _sparsify(folder: Path, layer: int | None) -> Encoder:
    from harvest_assets.decompositions.dictionaries.formats.sparsify import open_sparsify

    return open_sparsify(folder, layer)


def _encoder_pt(folder: Path, layer: int | None) -> Encoder:
    from harvest_assets.decompositions.dictionaries.formats.encoder_pt import open_encoder_pt

    return open_encoder_pt(folder, layer)


def _circuit_tracer(folder: Path, layer: int | None) -> Encoder:
    from harvest_assets.decompositions.dictionaries.formats.circuit_tracer import (
        open_circuit_tracer,
    )

    return open_circuit_tracer(folder, layer)


FORMATS = (
    Format("sae_lens", ("cfg.json", "sae_weights.safetensors"), _sae_lens),
    Format("sparsify", ("cfg.json", "sae.safetensors"), _sparsify),
    Format("encoder_pt", ("config.json", "encoder.pt"), _encoder_pt),
    Format("circuit_tracer", ("W_enc_{layer}.safetensors",), _circuit_tracer),
)


def format_of(folder: Path, layer: int | None) -> Format:
    """The format of the dictionary in a folder.

    Raises:
        HarvestError: the folder has the files of no format.
    """
    for known in FORMATS:
        if all(path.is_file() for path in known.paths(folder, layer)):
            return known
    hint = ""
    if layer is None and (folder / "W_enc_0.safetensors").is_file():
        hint = " It holds a cross-layer transcoder: give its layer."
    expected = "; ".join(" and ".join(known.files) for known in FORMATS)
    raise HarvestError(f"{folder} holds no dictionary; expected {expected}.{hint}")
