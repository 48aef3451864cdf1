"""The file formats of dictionaries, recognised by the files in a folder.

To add one, write a module with a function `open_encoder(folder, layer) -> Encoder` and add a line
with the module's name to `FORMATS`, and the name to `FormatName`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harvest_assets.errors import HarvestError

if TYPE_CHECKING:
    from harvest_assets.decompositions.dictionaries.encoder import Encoder

FormatName = Literal["sae_lens", "sparsify", "encoder_pt", "circuit_tracer"]


@dataclass(frozen=True)
class Format:
    """One format.

    Args:
        name: of its module, as results record it.
        files: names of the files that are read; `{layer}` is the layer of a cross-layer transcoder.
    """

    name: FormatName
    files: tuple[str, ...]

    def paths(self, folder: Path, layer: int | None) -> tuple[Path, ...]:
        """The files that are read."""
        return tuple(folder / name.format(layer=layer) for name in self.files)

    def open(self, folder: Path, layer: int | None) -> Encoder:
        """The encoder in a folder.

        Raises:
            HarvestError: a file is damaged, does not fit, or is of a kind that is not supported.
        """
        module = import_module(f"{__name__}.{self.name}")  # only now, for it loads torch
        encoder: Encoder = module.open_encoder(folder, layer)
        return encoder


FORMATS = (
    Format("sae_lens", ("cfg.json", "sae_weights.safetensors")),
    Format("sparsify", ("cfg.json", "sae.safetensors")),
    Format("encoder_pt", ("config.json", "encoder.pt")),
    Format("circuit_tracer", ("W_enc_{layer}.safetensors",)),
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
