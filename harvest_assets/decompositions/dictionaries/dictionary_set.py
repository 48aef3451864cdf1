"""Dictionaries over one model as a `Decomposition`: their files, verified and named by a digest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harvest_assets.decompositions.dictionaries.config import (
    DictionariesConfig,
    DictionaryConfig,
    Side,
    load_config,
    resolved,
)
from harvest_assets.decompositions.dictionaries.formats import (
    FORMATS,
    Format,
    FormatName,
    format_of,
)
from harvest_assets.decompositions.dictionaries.hub import fetch_folder
from harvest_assets.decompositions.dictionaries.target import TargetFiles, find_target
from harvest_assets.decompositions.protocol import matching_layers
from harvest_assets.decompositions.verified_files import are_unchanged, check_unchanged, digest_of
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.records import Record
from harvest_assets.files.stamps import Stamp, stamps_of
from harvest_assets.wandb_client.run_files import RunFiles
from harvest_assets.wandb_client.run_name import DICTIONARIES

if TYPE_CHECKING:
    import torch

    from harvest_assets.data.data import DataSpec
    from harvest_assets.data.recorded_tokenizer import RecordedTokenizer
    from harvest_assets.decompositions.dictionaries.encoder import Encoder
    from harvest_assets.decompositions.dictionaries.model import DictionaryModel


@dataclass(frozen=True)
class Dictionary:
    """One dictionary of a set.

    Args:
        name: of its layer.
        hook: path of the module it reads.
        side: of the module.
        path: as in `dictionaries.yaml`.
        folder: where its files are.
        cross_layer: the layer of a cross-layer transcoder, else None.
        format: of its files.
        architecture: as its files call it.
        activation: which pre-activations become activations, in words.
        reads_rows: whether that depends on the other tokens of the row.
        center: whether the mean of each vector is subtracted first.
        d_in: width of what it reads.
        n_latents: its latents.
    """

    name: str
    hook: str
    side: Side
    path: str
    folder: str
    cross_layer: int | None
    format: FormatName
    architecture: str
    activation: str
    reads_rows: bool
    center: bool
    d_in: int
    n_latents: int

    def open(self) -> Encoder:
        """Its encoder, on the CPU.

        Raises:
            HarvestError: a file is damaged.
        """
        return self._format.open(Path(self.folder), self.cross_layer)

    @property
    def _format(self) -> Format:
        return next(known for known in FORMATS if known.name == self.format)


@dataclass(frozen=True)
class DictionarySet:
    """The dictionaries of one `dictionaries.yaml`; see `Decomposition`.

    Args:
        run: `entity/project/run_id`.
        config_path: `dictionaries.yaml`.
        sha256: digest of all files.
        target: where the target model is.
        dictionaries: in flat order.
        vocab_size: width of the logits.
        max_context_length: tokens that the target can read at once; None if there is no limit.
        default_context_length: `data.max_seq_len`.
        default_ci_threshold: `threshold`.
        tokenizer_name: a name on the hub, or an absolute path.
        tokenizer_vocab_size: the tokenizer's highest id plus one, without added tokens.
        tokenizer_path: the folder of the tokenizer, if it is a local one.
        tokenizer_sha256: digest of its vocabulary.
        file_stamps: of all files when they were verified.
        tokens_per_forward: tokens that the model computes together.
        extra_bytes_per_token: for what an encoder computes on the way.
        weight_bytes: of all weights in float32.
        files: all files, `dictionaries.yaml` last.
    """

    kind: ClassVar[str] = "dictionaries"
    firing_strength: ClassVar[str] = "activation"
    second_value: ClassVar[str | None] = None

    run: str
    config_path: str
    sha256: str
    target: TargetFiles
    dictionaries: tuple[Dictionary, ...]
    vocab_size: int
    max_context_length: int | None
    default_context_length: int
    default_ci_threshold: float
    tokenizer_name: str
    tokenizer_vocab_size: int
    tokenizer_path: str | None
    tokenizer_sha256: str | None
    file_stamps: tuple[Stamp, ...] | None
    tokens_per_forward: int
    extra_bytes_per_token: int
    weight_bytes: int
    files: tuple[str, ...]

    @classmethod
    def recognises(cls, config: Path) -> bool:
        """By the name of the file."""
        return config.name == DICTIONARIES

    @classmethod
    def check_config(cls, config: Path) -> None:
        """See `Decomposition`."""
        load_config(config)

    @classmethod
    def verify(cls, files: RunFiles) -> DictionarySet:
        """Open all files and check that they fit together.

        Raises:
            HarvestError: they do not, or one changed meanwhile.
        """
        import torch

        from harvest_assets.data.recorded_tokenizer import RecordedTokenizer
        from harvest_assets.data.token_texts import id_limit
        from harvest_assets.data.tokenization import load_tokenizer

        config, folder = load_config(files.config), files.config.parent
        target = find_target(config.target, folder)
        places = [_place(entry, folder) for entry in config.dictionaries]
        paths = _all_files(files.config, target, places)
        # Before anything is opened, so that the digest is of what was opened.
        stamps, sha256 = stamps_of(paths), digest_of(paths)
        opened = [_open(*it) for it in zip(config.dictionaries, places, strict=True)]
        model = _model(config, target, opened, torch.device("cpu"))
        if load_config(files.config) != config or not are_unchanged(paths, sha256, stamps):
            raise HarvestError(f"{files.config} or one of its files was just replaced; try again.")
        name = config.tokenizer_name(folder)
        tokenizer = RecordedTokenizer.in_use(name)
        return cls(
            run=files.name.key,
            config_path=str(files.config),
            sha256=sha256,
            target=target,
            dictionaries=tuple(dictionary for dictionary, _ in opened),
            vocab_size=model.vocab_size,
            max_context_length=model.max_context_length,
            default_context_length=config.data.max_seq_len,
            default_ci_threshold=config.threshold,
            tokenizer_name=tokenizer.name,
            tokenizer_vocab_size=id_limit(load_tokenizer(name), with_added=False),
            tokenizer_path=tokenizer.folder,
            tokenizer_sha256=tokenizer.sha256,
            file_stamps=stamps,
            tokens_per_forward=model.tokens_per_forward,
            extra_bytes_per_token=model.extra_bytes_per_token,
            weight_bytes=model.weight_bytes,
            files=tuple(map(str, paths)),
        )

    @property
    def step(self) -> None:
        """Dictionaries have no step of training in common."""
        return None

    @property
    def checkpoint_path(self) -> str:
        """`dictionaries.yaml`: the weights are in many files."""
        return self.config_path

    @property
    def layers(self) -> tuple[tuple[str, int], ...]:
        """(name, latents) of each dictionary, in flat order."""
        return tuple((it.name, it.n_latents) for it in self.dictionaries)

    @property
    def n_components(self) -> int:
        """Latents of all dictionaries."""
        return sum(it.n_latents for it in self.dictionaries)

    @property
    def tokenizer(self) -> RecordedTokenizer:
        """The tokenizer that the set was verified with."""
        from harvest_assets.data.recorded_tokenizer import RecordedTokenizer

        return RecordedTokenizer(self.tokenizer_name, self.tokenizer_path, self.tokenizer_sha256)

    def is_of(self, files: RunFiles) -> bool:
        """See `Decomposition`."""
        same = self.config_path == str(files.config)
        return same and are_unchanged(self._paths, self.sha256, self.file_stamps)

    def restricted(self, patterns: Sequence[str] | None) -> DictionarySet:
        """See `Decomposition`."""
        names = {name for name, _ in matching_layers(self.layers, patterns)}
        return dataclasses.replace(
            self, dictionaries=tuple(it for it in self.dictionaries if it.name in names)
        )

    def data_spec(self, context_length: int | None) -> DataSpec:
        """See `Decomposition`."""
        path = Path(self.config_path)
        return load_config(path).data_spec(path.parent, context_length)

    def options(self) -> frozenset[str]:
        """See `Decomposition`: none."""
        return frozenset()

    def notes(self) -> list[str]:
        """See `Decomposition`."""
        by_row = [it for it in self.dictionaries if it.reads_rows]
        if not by_row:
            return []
        names = ", ".join(it.name for it in by_row)
        note = (
            f"{names}: training chose the largest activations of a batch, and the files hold no "
            "trained threshold; here they are chosen within each row of tokens, so they depend on "
            "context_length."
        )
        return [note]

    def warnings(self, ci_threshold: float, context_length: int) -> list[str]:  # noqa: ARG002
        """See `Decomposition`."""
        return self.notes()

    def as_config(self) -> dict[str, Any]:
        """See `Decomposition`."""
        shown = ("name", "hook", "side", "path", "cross_layer", "format", "architecture")
        return {
            "kind": self.kind,
            "firing_strength": self.firing_strength,
            "target": self.model_name(),
            "dictionaries": [
                {
                    name: getattr(it, name)
                    for name in (*shown, "activation", "center", "d_in", "n_latents")
                }
                for it in self.dictionaries
            ],
        }

    def model_name(self) -> str:
        """The target's class and name."""
        target = load_config(Path(self.config_path)).target
        return f"{target.model_class} {target.name}"

    def open_model(
        self,
        device: str | torch.device,
        *,
        ci_noise: bool = False,  # noqa: ARG002 - never on: see `options`
        bf16: bool = False,  # noqa: ARG002
    ) -> DictionaryModel:
        """The model on a device.

        Raises:
            HarvestError: the files are not the ones that were verified.
        """
        import torch

        check_unchanged(self._paths, self.sha256, self.file_stamps)
        config = load_config(Path(self.config_path))
        opened = [(it, it.open()) for it in self.dictionaries]
        return _model(config, self.target, opened, torch.device(device))

    def write(self, directory: Path) -> None:
        """Write `run_checkpoint.json` into a directory."""
        _RECORD.write(HarvestLayout(directory).run_checkpoint, self)

    @classmethod
    def open(cls, directory: Path) -> DictionarySet:
        """Read `run_checkpoint.json`.

        Raises:
            HarvestError: it is missing, damaged, or of another version.
        """
        return _RECORD.read(HarvestLayout(directory).run_checkpoint)

    @property
    def _paths(self) -> tuple[Path, ...]:
        return tuple(map(Path, self.files))


@dataclass(frozen=True)
class _Place:
    """Where the files of a dictionary are, and their format."""

    folder: Path
    layer: int | None
    format: Format

    @property
    def files(self) -> tuple[Path, ...]:
        return self.format.paths(self.folder, self.layer)


def _place(entry: DictionaryConfig, folder: Path) -> _Place:
    """Where the files of a dictionary are; those of the hub are downloaded."""
    place = Path(resolved(folder, entry.path))
    if not place.is_dir():
        names = sorted({name for known in FORMATS for name in known.files})
        place = fetch_folder(entry.path, [name.format(layer=entry.layer) for name in names])
    place = place.absolute()
    return _Place(place, entry.layer, format_of(place, entry.layer))


def _open(entry: DictionaryConfig, place: _Place) -> tuple[Dictionary, Encoder]:
    """A dictionary and its encoder."""
    encoder = place.format.open(place.folder, entry.layer)
    if encoder.trained_centered and entry.center is None:
        raise HarvestError(
            f"{place.folder}: training saw activations without their mean "
            f"(center_writing_weights). Give the dictionary {entry.path} center: true to "
            "subtract it here, or false."
        )
    dictionary = Dictionary(
        name=entry.layer_name,
        hook=entry.hook,
        side=entry.side,
        path=entry.path,
        folder=str(place.folder),
        cross_layer=entry.layer,
        format=place.format.name,
        architecture=encoder.architecture,
        activation=encoder.rule,
        reads_rows=encoder.reads_rows,
        center=bool(entry.center),
        d_in=encoder.d_in,
        n_latents=encoder.n_latents,
    )
    return dictionary, encoder


def _model(
    config: DictionariesConfig,
    files: TargetFiles,
    opened: Sequence[tuple[Dictionary, Encoder]],
    device: torch.device,
) -> DictionaryModel:
    from harvest_assets.decompositions.dictionaries.model import DictionaryModel, HookedEncoder
    from harvest_assets.decompositions.dictionaries.target import open_target

    target, n_weights = open_target(config.target, files, device)
    encoders = [
        HookedEncoder(it.hook, it.side, encoder.to(device), it.center) for it, encoder in opened
    ]
    return DictionaryModel(target, encoders, config.target.output_attr, device, n_weights)


def _all_files(
    config: Path, target: TargetFiles, dictionaries: Sequence[_Place]
) -> tuple[Path, ...]:
    """The files that determine the model, each once; the config last, for errors name it.

    Raises:
        HarvestError: one does not exist.
    """
    of_target = map(Path, (*target.configs, *target.weights))
    paths = dict.fromkeys((*of_target, *(path for it in dictionaries for path in it.files)))
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None:
        raise HarvestError(f"{config} needs {missing}, which does not exist.")
    return (*paths, config)


def _with_kind(value: DictionarySet) -> dict[str, Any]:
    return {"kind": value.kind, **dataclasses.asdict(value)}


_RECORD = Record(
    DictionarySet,
    "the description of a set of dictionaries",
    remedy="materialize run_checkpoint again",
    ignore_unknown=True,  # the kind
    fields_of=_with_kind,
)
