"""Attacks on the states of shards."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from harvest_assets.files.records import FileDigest
from harvest_assets_tests.files.sealed import change
from harvest_assets_tests.hostile.attacks.payloads import with_values
from harvest_assets_tests.hostile.attacks.registry import attack, byte_attacks, refused
from harvest_assets_tests.hostile.readers import READERS
from harvest_assets_tests.hostile.readers.reader import put


def _settings(**changes: Any) -> Callable[[bytes], bytes]:
    def change(good: bytes) -> bytes:
        value = json.loads(good)
        value["settings"] |= changes
        return json.dumps(value).encode()

    return change


byte_attacks(
    "state",
    "state",
    {
        "files elsewhere": with_values(files={"../../outside/kept": {"size": 6, "sha256": "0"}}),
        "no files, so no digests": with_values(files={}),
        "files of a list": with_values(files=["statistics.safetensors"]),
        "tokens below 0": with_values(total_tokens_processed=-1),
        "tokens of a text": with_values(total_tokens_processed="9"),
        "tokens of 2^63": with_values(total_tokens_processed=1 << 63),
        "no layers": _settings(layers=[]),
        "a layer twice": _settings(layers=[["a", 12], ["a", 12]]),
        "components of 10^12": _settings(layers=[["a", 10**12]]),
        "components below 0": _settings(layers=[["a", -1]]),
        "components of a text": _settings(layers=[["a", "24"]]),
        "a vocabulary of 10^18": _settings(vocab_size=10**18),
        "a context of 10^18": _settings(context_tokens_per_side=10**18),
        "another context": _settings(context_tokens_per_side=4),
        "a threshold of a text": _settings(ci_threshold="1"),
        "what no settings have": _settings(extra=1),
    },
)


def _sample(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[bytes], bytes]:
    def changed(good: bytes) -> bytes:
        from safetensors.torch import load

        tensors = {name: tensor.clone() for name, tensor in load(good).items()}
        change(tensors)
        return save({name: tensor.contiguous() for name, tensor in tensors.items()})

    return changed


def _header(header: bytes, data: bytes = b"", claimed: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if claimed is None else claimed) + header + data


byte_attacks(
    "state",
    "state-tensors",
    {
        "a component beyond the last": _sample(lambda t: t["component"].fill_(10**6)),
        "a component below 0": _sample(lambda t: t["component"].fill_(-1)),
        "components in another order": _sample(
            lambda t: t.update(component=t["component"].flip(0))
        ),
        "a token beyond the vocabulary": _sample(lambda t: t["token_ids"].fill_(10**6)),
        "a token below -1": _sample(lambda t: t["token_ids"].fill_(-2)),
        "a row below 0": _sample(lambda t: t["row"].fill_(-1)),
        "columns of different lengths": _sample(lambda t: t.update(row=t["row"][:3])),
        "another type": _sample(lambda t: t.update(row=t["row"].to(torch.int32))),
        "a column less": _sample(lambda t: t.pop("row")),
        "a header of 2^60 bytes": _header(b"{}", claimed=1 << 60),
        "a header that is no JSON": _header(b"{{"),
        "a tensor outside the file": _header(
            b'{"row": {"dtype": "I64", "shape": [1000], "data_offsets": [0, 8000]}}', bytes(8)
        ),
        "tensors that overlap": _header(
            b'{"row": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},'
            b'"component": {"dtype": "I64", "shape": [1], "data_offsets": [4, 12]}}',
            bytes(12),
        ),
        "a shape of 2^62": _header(
            b'{"row": {"dtype": "I64", "shape": [4611686018427387904, 4], "data_offsets": [0, 0]}}'
        ),
        "nothing": b"",
    },
)


@attack("state", "counts below 0, and sums that are no numbers")
def _(folder: Path) -> bool:
    from harvest_assets.harvester import HarvesterState

    (folder / "files").mkdir()
    state = READERS["state"](folder / "files").file.parent
    path, meta = state / "statistics.safetensors", state / "state.json"
    good = {name: tensor.clone() for name, tensor in load_file(path).items()}
    for name, value in (
        ("ci_histogram", -1),
        ("input_token_totals", -1),
        ("ci_sums", float("nan")),
        ("output_token_prob_mass", float("inf")),
        ("output_token_prob_totals", -1.0),
    ):
        bad = {key: tensor.clone() for key, tensor in good.items()}
        bad[name].view(-1)[0] = value
        put(path, save(bad))
        names = json.loads(meta.read_bytes())["files"]
        change(meta, files={name: vars(FileDigest.of(state / name)) for name in names})
        if not refused(lambda: HarvesterState.load(state)):
            return False
    return True
