"""A harvest that keeps its firings in the form of delphi's latents cache.

`FOLDER/latents/` is delphi's `raw_dir`: a folder for each layer, its module, with `config.json` and
a file for each range of its latents (ours: components), `<first>_<last>.safetensors`:

1. `locations` int64 [n, 3]: row, position and latent of each firing, in this order; the latent is
   counted from `first`, which delphi's loader adds.
2. `activations` float32 [n]: the firing strengths.
3. `tokens` [rows, S]: the rows; delphi reads them of the first file that it opens.

Firings are read once and appended to a raw file for each range, which then becomes its file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harvest_assets.errors import HarvestError
from harvest_assets.files.free_space import require_free
from harvest_assets.files.layout import HarvestLayout, is_folder_name
from harvest_assets.files.records import sha256_of
from harvest_assets.harvester.tensor_file import Column, save_columns
from harvest_assets.results.firings import FiringBlock, KeptFirings
from harvest_assets.results.some_layers import layers_of
from harvest_assets.sharing.contents import Watch
from harvest_assets.sharing.exporting import Source, new_folder
from harvest_assets.store.shared_rows import SharedTokenRows

_NAME = "latents"
_FILES_OF_A_LAYER = 5  # as many as delphi itself writes
_BYTES = 28  # of a firing
_PIECE = 1 << 20
_INT16_MAX = torch.iinfo(torch.int16).max


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        folder: `latents`.
        n_components: of all layers.
        n_firings: of them in the rows whose firings are kept.
        n_bytes: of all files.
        has_tokens: whether the rows of tokens are here, and so part of the files.
    """

    folder: Path
    n_components: int
    n_firings: int
    n_bytes: int
    has_tokens: bool


@dataclass(frozen=True)
class _Range:
    """Latents of one file: `first` to `last` of a layer, both included."""

    layer: str
    first: int
    last: int

    @property
    def name(self) -> str:
        """The path of the file below `latents`, without its ending."""
        return f"{self.layer}/{self.first}_{self.last}"


def export(paths: HarvestLayout, folder: Path, watch: Watch) -> Exported:
    """Write the firings of a finished harvest into `folder/latents`, complete or not at all.

    Args:
        paths: of the harvest.
        folder: in which `latents` is made.
        watch: is shown the progress.

    Raises:
        HarvestError: the harvest keeps no firings, is not finished or is damaged, `latents` exists,
            or the disk is too full.
        OSError: the folder cannot be written.
    """
    kept = KeptFirings.open(paths)
    source, layers = Source.open(paths), layers_of(paths)
    source.check(paths.firings, sha256_of(paths.firings))
    for name, _ in layers:
        if not is_folder_name(name):
            raise HarvestError(f"The layer {name[:100]!r} cannot be the name of a folder.")
    tokens = _tokens(paths, kept.n_rows)
    with new_folder(folder, _NAME) as (staging, target):
        _write(kept, layers, tokens, staging, watch)
        _write_configs(source, kept, layers, staging)
        n_bytes = sum(file.stat().st_size for file in staging.rglob("*") if file.is_file())
    n_components = sum(n for _, n in layers)
    return Exported(target, n_components, kept.n_firings, n_bytes, tokens is not None)


def _tokens(paths: HarvestLayout, n_rows: int) -> torch.Tensor | None:
    """The rows whose firings are kept, int [rows, S]; None where they are not on this machine."""
    try:
        tokens = SharedTokenRows.open(paths.root).rows().rows(0, n_rows)
    except HarvestError:
        return None
    narrow = not tokens.numel() or int(tokens.max()) <= _INT16_MAX
    return tokens.to(torch.int16 if narrow else torch.int32)


def _ranges(layers: Sequence[tuple[str, int]]) -> tuple[list[_Range], NDArray[np.int64]]:
    """The ranges of all layers, and the first component of each in flat order."""
    ranges, starts, flat = [], [], 0
    for layer, n in layers:
        n_files = min(_FILES_OF_A_LAYER, n)
        edges = [n * i // n_files for i in range(n_files + 1)]
        for first, end in pairwise(edges):
            ranges.append(_Range(layer, first, end - 1))
            starts.append(flat + first)
        flat += n
    return ranges, np.array(starts, np.int64)


def _write(
    kept: KeptFirings,
    layers: Sequence[tuple[str, int]],
    tokens: torch.Tensor | None,
    staging: Path,
    watch: Watch,
) -> None:
    ranges, starts = _ranges(layers)
    token_bytes = 0 if tokens is None else tokens.nbytes * len(ranges)
    # The raw file of a range goes when its file is complete; all firings may be of one range.
    n_bytes = 2 * _BYTES * kept.n_firings + token_bytes
    require_free(staging, n_bytes, remedy="export to a larger disk")
    for layer, _ in layers:
        (staging / layer).mkdir()
    done, total = 0, _BYTES * kept.n_firings
    for block in kept.blocks():
        watch("reading firings", done, total)
        done += _BYTES * len(block.ci)
        _append(block, ranges, starts, staging)
    for number, of in enumerate(ranges):
        watch("writing files", total * number // len(ranges), total)
        _write_file(of, tokens, staging)


def _append(
    block: FiringBlock, ranges: Sequence[_Range], starts: NDArray[np.int64], staging: Path
) -> None:
    """Append the firings of some rows to the raw files of their ranges."""
    of = np.searchsorted(starts, block.component, side="right") - 1
    order = np.argsort(of, kind="stable")
    latent = block.component - starts[of]
    found, firsts = np.unique(of[order], return_index=True)
    for number, part in zip(found.tolist(), np.split(order, firsts[1:]), strict=False):
        columns = (block.row[part], block.position[part], latent[part])
        name = ranges[number].name
        for kind, values in (
            ("locations", np.stack(columns, axis=1).astype(np.int64)),
            ("activations", block.ci[part]),
        ):
            with (staging / f"{name}.{kind}").open("ab") as file:
                file.write(values.tobytes())


def _write_file(of: _Range, tokens: torch.Tensor | None, staging: Path) -> None:
    raw = {kind: staging / f"{of.name}.{kind}" for kind in ("locations", "activations")}
    n = raw["activations"].stat().st_size // 4 if raw["activations"].exists() else 0

    def pieces(kind: str, dtype: type[np.number[Any]], width: int) -> list[NDArray[Any]]:
        if n == 0:
            return []
        mapped = np.memmap(raw[kind], dtype=dtype, mode="r", shape=(n, width))
        return [mapped[start : start + _PIECE] for start in range(0, n, _PIECE)]

    columns = {
        "locations": Column(torch.int64, (n, 3), pieces("locations", np.int64, 3)),
        "activations": Column(torch.float32, (n,), pieces("activations", np.float32, 1)),
    }
    if tokens is not None:
        columns["tokens"] = Column(tokens.dtype, tokens.shape, [tokens.numpy()])
    save_columns(staging / f"{of.name}.safetensors", columns)
    for path in raw.values():
        path.unlink(missing_ok=True)


def _write_configs(
    source: Source, kept: KeptFirings, layers: Sequence[tuple[str, int]], staging: Path
) -> None:
    try:
        config = _config(source.config, source.paths, kept)
    except KeyError as error:
        raise HarvestError(f"{source.paths.config} has no {error}.") from error
    for layer, n in layers:
        own = {**config, "n_splits": min(_FILES_OF_A_LAYER, n)}
        (staging / layer / "config.json").write_text(json.dumps(own, indent=4))


def _config(harvest: Mapping[str, Any], paths: HarvestLayout, kept: KeptFirings) -> dict[str, Any]:
    """What delphi's own `config.json` holds; it takes the tokenizer from `model_name`."""
    here = str(paths.tokenizer.absolute()) if paths.tokenizer.is_dir() else None
    return {
        "dataset_repo": harvest["dataset_name"],
        "dataset_split": harvest["dataset_split"],
        "dataset_name": "",
        "batch_size": harvest["batch_size"],
        "cache_ctx_len": kept.row_length,
        "ctx_len": kept.row_length,
        "n_tokens": kept.n_rows * kept.row_length,
        "model_name": here or harvest["tokenizer_name"],
    }
