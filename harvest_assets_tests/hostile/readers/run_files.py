"""Readers of the files of a run."""

from __future__ import annotations

import io
import math
import zipfile

import torch

from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.decompositions.spd.run_config import load_run_config
from harvest_assets.decompositions.spd.targets.llama_simple import LlamaSimpleConfig
from harvest_assets.demo.built_in import RUN as DEMO_RUN
from harvest_assets.files.yaml_file import read_mapping, validated
from harvest_assets_tests.hostile.readers.reader import Reader, put


class Config(Reader):
    """`final_config.yaml`."""

    def seeds(self) -> list[bytes]:
        older = b"task_config: {task_name: lm}\ntarget_module_patterns: [a, &x b, *x]\nC: 3\n"
        return [(DEMO_RUN / "final_config.yaml").read_bytes(), older]

    def read(self, content: bytes) -> None:
        config = load_run_config(put(self.folder / "final_config.yaml", content))
        assert all(0 < info.C < 1 << 25 for info in config.decomposed_modules)
        assert 0 <= config.seed < 1 << 63


class ModelConfig(Reader):
    """`model_config.yaml`."""

    def seeds(self) -> list[bytes]:
        return [b"n_layer: 2\nn_embd: 8\nn_head: 2\nvocab_size: 9\nn_key_value_heads: 1\n"]

    def read(self, content: bytes) -> None:
        path = put(self.folder / "model_config.yaml", content)
        config = validated(path, read_mapping(path), LlamaSimpleConfig)
        assert math.isfinite(config.rotary_base)
        assert config.n_embd < 1 << 27


def archive_of(pickle: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """An archive as `torch.save` writes it around this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/byteorder", b"little")
        given = storages or {str(i): bytes(64) for i in range(3)}
        for key, content in given.items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


class CheckpointArchive(Reader):
    """`model_<n>.pth`, all bytes of it."""

    def seeds(self) -> list[bytes]:
        state = {
            "target_model.a.weight": torch.ones(3, 2),
            "_components.h-0-a.V": torch.ones(2, 4, dtype=torch.bfloat16).T,
            "_components.h-0-a.bias": torch.ones(3, dtype=torch.int64),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return [buffer.getvalue()]

    def read(self, content: bytes) -> None:
        opened = Checkpoint.open(put(self.folder / "model_1.pth", content))
        for tensor in opened.state.values():
            assert tensor.nbytes <= len(content)
            tensor.float().sum()


class CheckpointPickle(CheckpointArchive):
    """The pickle in a checkpoint, in an archive that is whole."""

    def seeds(self) -> list[bytes]:
        (archive,) = super().seeds()
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            return [opened.read(name) for name in opened.namelist() if name.endswith("data.pkl")]

    def read(self, content: bytes) -> None:
        super().read(archive_of(content))
