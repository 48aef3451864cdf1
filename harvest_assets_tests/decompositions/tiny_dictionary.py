"""A kind of decomposition that is not SPD: the latents of a dictionary over one layer of a model.

The model reads a token and the one before it: `x = E[token] + P[token before]`, and predicts
`softmax(x U)`. A latent is `relu(x W + b)`; it is the only value of a component.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from harvest_assets.data.data import DataSpec
from harvest_assets.data.recorded_tokenizer import RecordedTokenizer
from harvest_assets.decompositions.protocol import matching_layers
from harvest_assets.decompositions.verified_files import check_unchanged, digest_of
from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import write_json
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.untrusted import as_record, read_json
from harvest_assets.files.yaml_file import read_mapping
from harvest_assets.wandb_client.run_files import RunFiles
from harvest_assets_tests.tiny_run import VOCAB, text, write_tokenizer

LAYER, N_LATENTS, N_CTX = "blocks.0.hook_resid_post", 14, 12
_WIDTH = 10


def write_run(root: Path) -> Path:
    """Fill `root` with tokenizer, dataset and dictionary; returns the run's folder."""
    generator = random.Random(5)
    texts = [text(generator) for _ in range(150)]
    (root / "dataset").mkdir(parents=True)
    pq.write_table(pa.table({"text": texts}), root / "dataset" / "train.parquet")
    write_tokenizer(root / "tokenizer", texts)
    run = root / "tiny_dictionary"
    run.mkdir()
    torch.manual_seed(5)
    weights = {
        "E": torch.randn(VOCAB, _WIDTH),
        "P": torch.randn(VOCAB, _WIDTH) / 2,
        "U": torch.randn(_WIDTH, VOCAB),
        "W": torch.randn(_WIDTH, N_LATENTS) / _WIDTH**0.5,
        "b": torch.linspace(1.0, -9.0, N_LATENTS),  # from often to never firing
    }
    torch.save(weights, run / "model_7.pth")
    config = {
        "kind": "dictionary",
        "dataset": str(root / "dataset"),
        "tokenizer": str(root / "tokenizer"),
    }
    (run / "final_config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return run


def by_formula(run: Path, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Latents and probabilities of tokens [rows, S], in float64 NumPy."""
    saved = torch.load(run / "model_7.pth", weights_only=True)
    w = {name: value.double().numpy() for name, value in saved.items()}
    before = np.concatenate([tokens[:, :1] * 0, tokens[:, :-1]], axis=1)
    x = w["E"][tokens] + w["P"][before]
    exponentials = np.exp(x @ w["U"] - (x @ w["U"]).max(-1, keepdims=True))
    latents = np.maximum(x @ w["W"] + w["b"], 0)
    return latents, exponentials / exponentials.sum(-1, keepdims=True)


class Latents(NamedTuple):
    output_probs: torch.Tensor
    firing_strengths: torch.Tensor
    second_values: None = None


@dataclass(frozen=True)
class TinyDictionary:
    """The run of `write_run` as a `Decomposition`."""

    kind: ClassVar[str] = "dictionary"
    firing_strength: ClassVar[str] = "latent activation"
    second_value: ClassVar[str | None] = None

    run: str
    config_path: str
    checkpoint_path: str
    step: int | None
    sha256: str
    layers: tuple[tuple[str, int], ...]
    vocab_size: int
    tokenizer_name: str
    max_context_length: int | None = 32
    default_context_length: int = N_CTX
    default_ci_threshold: float = 1e-6
    tokenizer_vocab_size: int = VOCAB

    @classmethod
    def recognises(cls, config: Path) -> bool:
        try:
            return read_mapping(config).get("kind") == cls.kind
        except HarvestError:
            return False

    @classmethod
    def check_config(cls, config: Path) -> None:
        if "tokenizer" not in read_mapping(config):
            raise HarvestError(f"{config} names no tokenizer.")

    @classmethod
    def verify(cls, files: RunFiles) -> TinyDictionary:
        cls.check_config(files.config)
        return cls(
            run=files.name.key,
            config_path=str(files.config),
            checkpoint_path=str(files.checkpoint),
            step=files.step,
            sha256=digest_of((files.config, files.checkpoint)),
            layers=((LAYER, N_LATENTS),),
            vocab_size=VOCAB,
            tokenizer_name=read_mapping(files.config)["tokenizer"],
        )

    def is_of(self, files: RunFiles) -> bool:
        return self.sha256 == digest_of((files.config, files.checkpoint))

    @property
    def n_components(self) -> int:
        return N_LATENTS

    @property
    def tokenizer(self) -> RecordedTokenizer:
        return RecordedTokenizer.in_use(self.tokenizer_name)

    def data_spec(self, context_length: int | None) -> DataSpec:
        return DataSpec(
            dataset_name=read_mapping(Path(self.config_path))["dataset"],
            train_data_split="train",
            column_name="text",
            is_tokenized=False,
            streaming=False,
            buffer_size=1000,
            shuffle_each_epoch=True,
            seed=0,
            tokenizer_name=self.tokenizer_name,
            n_ctx=context_length or N_CTX,
        )

    def options(self) -> frozenset[str]:
        return frozenset()

    def notes(self) -> list[str]:
        return ["Latents are not scaled."]

    @property
    def tokens_per_forward(self) -> int:
        return 8192

    @property
    def extra_bytes_per_token(self) -> int:
        return 0

    @property
    def weight_bytes(self) -> int:
        return Path(self.checkpoint_path).stat().st_size

    def restricted(self, patterns: Sequence[str] | None) -> Self:
        return dataclasses.replace(self, layers=matching_layers(self.layers, patterns))

    def warnings(self, ci_threshold: float, context_length: int) -> list[str]:
        return [*self.notes(), f"{ci_threshold:g}, rows of {context_length}."]

    def as_config(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def model_name(self) -> str:
        return "a model of two tokens"

    def open_model(
        self,
        device: str | torch.device,
        *,
        ci_noise: bool = False,
        bf16: bool = False,
    ) -> Callable[[torch.Tensor], Latents]:
        assert (ci_noise, bf16) == (False, False)
        files = (Path(self.config_path), Path(self.checkpoint_path))
        check_unchanged(files, self.sha256, None)
        weights = torch.load(self.checkpoint_path, weights_only=True, map_location=device)
        E, P, U, W, b = (weights[name] for name in "EPUWb")  # noqa: N806

        def model(tokens: torch.Tensor) -> Latents:
            before = torch.nn.functional.pad(tokens[:, :-1], (1, 0))
            x = E[tokens] + P[before]
            return Latents((x @ U).softmax(-1), (x @ W + b).relu())

        return model

    def write(self, directory: Path) -> None:
        record = dataclasses.asdict(self) | {"kind": self.kind}
        write_json(HarvestLayout(directory).run_checkpoint, record)

    @classmethod
    def open(cls, directory: Path) -> TinyDictionary:
        record = dict(read_json(HarvestLayout(directory).run_checkpoint))
        assert record.pop("kind") == cls.kind
        return as_record(record, cls)
