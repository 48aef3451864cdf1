"""SPD as a `Decomposition`: the files of a run, verified and named by their digest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harvest_assets.decompositions.protocol import TOKENS_PER_FORWARD, matching_layers
from harvest_assets.decompositions.spd.run_config import RunConfig, load_run_config
from harvest_assets.decompositions.verified_files import are_unchanged, check_unchanged, digest_of
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.records import Older, Record
from harvest_assets.files.stamps import Stamp, stamps_of
from harvest_assets.settings import DEFAULT_CI_THRESHOLD
from harvest_assets.wandb_client.run_files import RunFiles

if TYPE_CHECKING:
    import torch

    from harvest_assets.data.data import DataSpec
    from harvest_assets.data.recorded_tokenizer import RecordedTokenizer
    from harvest_assets.decompositions.spd.model import DecomposedModel


@dataclass(frozen=True)
class RunCheckpoint:
    """One checkpoint of one SPD run; see `Decomposition`.

    Args:
        run: `entity/project/run_id`.
        config_path: `final_config.yaml`.
        checkpoint_path: the state dict.
        step: training steps, if the file's name says.
        sha256: digest of config and checkpoint together.
        layers: (layer, C) in flat order.
        vocab_size: width of the logits.
        max_context_length: tokens that the target can read at once; None if there is no limit.
        default_context_length: tokens of a row in training.
        tokenizer_name: of the run's config.
        tokenizer_vocab_size: the tokenizer's highest id plus one, without added tokens.
        tokenizer_path: the folder of the tokenizer, if it is a local one.
        tokenizer_sha256: digest of its vocabulary.
        file_stamps: of config and checkpoint when they were verified.
        tokens_per_forward: tokens that the model computes together.
        extra_bytes_per_token: for the inputs and raw values of a global CI function.
        weight_bytes: of all weights in float32; 0 in what was written before it was recorded.
    """

    kind: ClassVar[str] = "spd"
    firing_strength: ClassVar[str] = "causal importance"
    second_value: ClassVar[str | None] = "component activation"

    run: str
    config_path: str
    checkpoint_path: str
    step: int | None
    sha256: str
    layers: tuple[tuple[str, int], ...]
    vocab_size: int
    max_context_length: int | None
    default_context_length: int
    tokenizer_name: str
    tokenizer_vocab_size: int
    tokenizer_path: str | None = None
    tokenizer_sha256: str | None = None
    file_stamps: tuple[Stamp, ...] | None = None
    tokens_per_forward: int = TOKENS_PER_FORWARD
    extra_bytes_per_token: int = 0
    weight_bytes: int = 0

    @classmethod
    def recognises(cls, config: Path) -> bool:  # noqa: ARG003 - no key marks an SPD run
        """Always: SPD is asked last."""
        return True

    @classmethod
    def check_config(cls, config: Path) -> None:
        """See `Decomposition`."""
        load_run_config(config)

    @classmethod
    def verify(cls, files: RunFiles) -> RunCheckpoint:
        """Open a run's files and check that they make a model.

        Raises:
            HarvestError: they do not.
        """
        from harvest_assets.data.recorded_tokenizer import RecordedTokenizer
        from harvest_assets.data.token_texts import id_limit
        from harvest_assets.data.tokenization import load_tokenizer
        from harvest_assets.decompositions.spd.model import open_model

        config = load_run_config(files.config)
        model = open_model(config, files.checkpoint, "cpu")
        limit = id_limit(load_tokenizer(config.tokenizer_name), with_added=False)
        tokenizer = RecordedTokenizer.in_use(config.tokenizer_name)
        paths = (files.config, files.checkpoint)
        stamps = stamps_of(paths)
        return cls(
            run=files.name.key,
            config_path=str(files.config),
            checkpoint_path=str(files.checkpoint),
            step=files.step,
            sha256=digest_of(paths),
            layers=tuple(model.layers),
            vocab_size=model.vocab_size,
            max_context_length=model.max_context_length,
            default_context_length=config.task_config.max_seq_len,
            tokenizer_name=tokenizer.name,
            tokenizer_vocab_size=limit,
            tokenizer_path=tokenizer.folder,
            tokenizer_sha256=tokenizer.sha256,
            file_stamps=stamps,
            tokens_per_forward=model.tokens_per_forward,
            extra_bytes_per_token=model.extra_bytes_per_token,
            weight_bytes=model.weight_bytes,
        )

    @property
    def tokenizer(self) -> RecordedTokenizer:
        """The tokenizer that the checkpoint was verified with."""
        from harvest_assets.data.recorded_tokenizer import RecordedTokenizer

        return RecordedTokenizer(self.tokenizer_name, self.tokenizer_path, self.tokenizer_sha256)

    @property
    def n_components(self) -> int:
        """Components of all layers."""
        return sum(c for _, c in self.layers)

    @property
    def default_ci_threshold(self) -> float:
        """See `Decomposition`."""
        return DEFAULT_CI_THRESHOLD

    def is_of(self, files: RunFiles) -> bool:
        """See `Decomposition`."""
        paths = (files.config, files.checkpoint)
        same = (self.config_path, self.checkpoint_path) == tuple(map(str, paths))
        return same and are_unchanged(paths, self.sha256, self.file_stamps)

    def restricted(self, patterns: Sequence[str] | None) -> RunCheckpoint:
        """See `Decomposition`."""
        return dataclasses.replace(self, layers=matching_layers(self.layers, patterns))

    def config(self) -> RunConfig:
        """The run's config."""
        return load_run_config(Path(self.config_path))

    def data_spec(self, context_length: int | None) -> DataSpec:
        """See `Decomposition`."""
        return self.config().data_spec(context_length)

    def options(self) -> frozenset[str]:
        """See `Decomposition`; noise only where the run was trained with it."""
        noisy = self.config().sampling == "binomial"
        return frozenset({"bf16", "ci_noise"} if noisy else {"bf16"})

    def notes(self) -> list[str]:
        """See `Decomposition`."""
        return self.config().notes

    def warnings(self, ci_threshold: float, context_length: int) -> list[str]:
        """See `Decomposition`."""
        return self.config().warnings(ci_threshold, context_length)

    def as_config(self) -> dict[str, Any]:
        """See `Decomposition`."""
        config = self.config()
        return {"sigmoid_type": config.sigmoid_type, "sampling": config.sampling}

    def model_name(self) -> str:
        """The target's class and name."""
        config = self.config()
        return f"{config.pretrained_model_class} {config.target_name}"

    def open_model(
        self, device: str | torch.device, *, ci_noise: bool = False, bf16: bool = False
    ) -> DecomposedModel:
        """The model on a device.

        Args:
            device: where to compute.
            ci_noise: as in `spd.model.open_model`.
            bf16: likewise.

        Raises:
            HarvestError: the files are not the ones that were verified.
        """
        from harvest_assets.decompositions.spd.model import open_model

        path = Path(self.checkpoint_path)
        check_unchanged((Path(self.config_path), path), self.sha256, self.file_stamps)
        names = [name for name, _ in self.layers]
        return open_model(self.config(), path, device, only=names, ci_noise=ci_noise, bf16=bf16)

    def token_embeddings(self) -> torch.Tensor:
        """The target's embedding matrix, [vocab, width]; see `HasTokenEmbeddings`."""
        from harvest_assets.decompositions.spd.checkpoint import Checkpoint

        path = Path(self.checkpoint_path)
        check_unchanged((Path(self.config_path), path), self.sha256, self.file_stamps)
        return Checkpoint.open(path).token_embeddings()

    def write(self, directory: Path) -> None:
        """Write `run_checkpoint.json` into a directory."""
        _RECORD.write(HarvestLayout(directory).run_checkpoint, self)

    @classmethod
    def open(cls, directory: Path) -> RunCheckpoint:
        """Read `run_checkpoint.json`.

        Raises:
            HarvestError: it is missing, damaged, or of another version.
        """
        return _RECORD.read(HarvestLayout(directory).run_checkpoint)


_RECORD = Record(
    RunCheckpoint,
    "the description of a run's checkpoint",
    remedy="materialize run_checkpoint again",
    older=Older(),
)
