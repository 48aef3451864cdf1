"""Readers of dictionaries' files, of newer configs, and of what is recorded of other kinds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
import yaml

from harvest_assets.data.data import DataSpec
from harvest_assets.decompositions.dictionaries.config import load_config
from harvest_assets.decompositions.dictionaries.dictionary_set import Dictionary, DictionarySet
from harvest_assets.decompositions.dictionaries.formats import format_of
from harvest_assets.decompositions.dictionaries.target import TargetFiles
from harvest_assets.decompositions.own_model.own_model import OwnModel
from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.errors import HarvestError
from harvest_assets_tests.hostile.readers.of_harvest import OfHarvest
from harvest_assets_tests.hostile.readers.reader import Reader, put, put_sealed
from harvest_assets_tests.hostile.readers.run_files import Config

_SAVED = Path(__file__).parents[2] / "decompositions" / "dictionaries" / "saved"
_NESTED = {
    "pd": {
        "seed": 1,
        "ci_config": {
            "mode": "global",
            "fn_type": "global_reverse_residual",
            "d_resid_ci_fn": 8,
            "reader_hidden_dims": [4],
            "block_groups": [{"name": "a", "patterns": ["h.*"]}],
            "transition_attn_config": {"n_heads": 2, "max_len": 64, "rope_base": 100.0},
            "transition_hidden_dim": 4,
        },
        "decomposition_targets": [{"module_pattern": "h.*.c_fc", "C": 7}],
        "identity_decomposition_targets": None,
    },
    "target": {
        "spec": {"kind": "hf", "model_class": "transformers.LlamaForCausalLM", "model_name": "x"},
        "output_extract": 0,
        "weights_dtype": "float32",
    },
    "data": {"dataset_name": "data", "tokenizer_name": "t", "max_seq_len": 32, "streaming": True},
}
_FLAT = {
    "ci_config": {
        "fn_type": "global_shared_transformer",
        "simple_transformer_ci_cfg": {
            "d_model": 8,
            "n_blocks": 1,
            "mlp_hidden_dim": [4],
            "attn_config": {"n_heads": 2},
        },
    },
    "module_info": [{"module_pattern": "h.*", "C": 7}],
    "output_extract": "logits",
    "pretrained_model_class": "transformers.LlamaForCausalLM",
    "pretrained_model_name": "x",
    "tokenizer_name": "t",
    "task_config": {"task_name": "lm", "max_seq_len": 32},
}


class NewerConfig(Config):
    """A config of newer runs: in sections, with one CI function for all layers."""

    def seeds(self) -> list[bytes]:
        older = {**_FLAT, "use_global_ci": True, "ci_fn_hidden_dims": [4]}
        del older["ci_config"]
        return [yaml.safe_dump(value).encode() for value in (_NESTED, _FLAT, older)]


class DictionariesFile(Reader):
    """`dictionaries.yaml`."""

    def seeds(self) -> list[bytes]:
        (self.folder / "sae").mkdir(exist_ok=True)
        value = {
            "target": {"class": "transformers.LlamaForCausalLM", "name": "x"},
            "tokenizer": "t",
            "data": {"dataset_name": "d", "max_seq_len": 8},
            "dictionaries": [
                {"hook": "h.0", "side": "input", "path": "./sae"},
                {"hook": "h.1", "side": "output", "path": "a/b", "layer": 3, "name": "n.1"},
            ],
            "threshold": 0.5,
        }
        return [yaml.safe_dump(value).encode()]

    def read(self, content: bytes) -> None:
        config = load_config(put(self.folder / "dictionaries.yaml", content))
        names = [it.layer_name for it in config.dictionaries]
        assert len(set(names)) == len(names)
        assert config.data_spec(self.folder, None).n_ctx > 0


class DictionaryFiles(Reader):
    """One of the files of a dictionary; the first byte chooses which."""

    FOLDERS = (
        *("sae_lens_topk", "sae_lens_gated", "sae_lens_batchtopk_trained"),
        *("sae_lens_standard_layer_norm", "sparsify_groupmax", "sparsify_transcoder"),
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for name in self.FOLDERS:
            shutil.copytree(_SAVED / name, folder / name)
        mine = folder / "encoder_pt"
        mine.mkdir()
        weights = {"W_enc": torch.ones(6, 12), "b_enc": torch.ones(12), "b_dec": torch.ones(6)}
        torch.save(weights, mine / "encoder.pt")
        sizes = {"input_size": 6, "output_size": 6, "dict_size": 12, "top_k": 2}
        (mine / "config.json").write_text(json.dumps({**sizes, "encoder_type": "batchtopk"}))
        folders = [folder / name for name in (*self.FOLDERS, "encoder_pt")]
        self.files = [
            file for place in folders for file in format_of(place, None).paths(place, None)
        ]
        self._good = [file.read_bytes() for file in self.files]

    def seeds(self) -> list[bytes]:
        return [bytes([i]) + content for i, content in enumerate(self._good)]

    def read(self, content: bytes) -> None:
        chosen = content[0] % len(self.files) if content else 0
        file = self.files[chosen]
        put(file, content[1:])
        try:
            encoder = format_of(file.parent, None).open(file.parent, None)
            found = encoder(torch.ones(1, 2, encoder.d_in))
            assert found.shape == (1, 2, encoder.n_latents)
        finally:
            put(file, self._good[chosen])


class OtherRecords(OfHarvest):
    """`run_checkpoint.json` of dictionaries, and of somebody's own model."""

    FILE = "run_checkpoint.json"

    def seeds(self) -> list[bytes]:
        one = Dictionary(
            *("h.0.input", "h.0", "input", "./a", "/a", None, "sae_lens", "topk", "k"),
            *(False, False, 6, 12),
        )
        dictionaries = DictionarySet(
            *("local/a/x-aaaaaaaa", "/d.yaml", "0" * 64, TargetFiles("/m", ("/c",), ("/w",))),
            *((one,), 9, 32, 8, 0.0, "t", 9, None, None, ((7, 1, 2, 3),), 64, 0, 99, ("/a",)),
        )
        spec = DataSpec(*("d", "train", "text", False, False, 1000, True, 0, "t", 8))
        own = OwnModel(
            *("local/a/x-aaaaaaaa", "/m.py:it", "/m.py", "0" * 64, True, (("a", 3),)),
            *((("a", 3),), 9, None, 0.0, 64, 0, 0, "strength", None, "m", (), ("note",), spec),
            *(9, None, None),
        )
        found = []
        for value in (dictionaries, own):
            value.write(self.paths.root)
            found.append(self.file.read_bytes())
        return found

    def read(self, content: bytes) -> None:
        put_sealed(self.file, content)
        opened = open_decomposition(self.paths.root)
        assert type(opened.n_components) is int
        opened.restricted(None)
        str((opened.layers, opened.tokenizer, opened.notes(), opened.step))
        for call in (opened.as_config, opened.model_name, lambda: opened.data_spec(None)):
            call()
        try:
            opened.open_model("cpu")
        except HarvestError:
            return
        raise AssertionError("a model of files that are not there was opened")
