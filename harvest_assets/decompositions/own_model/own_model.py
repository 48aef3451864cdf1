"""An object in a module as a `Decomposition`: what its files record, and how it is opened again."""

from __future__ import annotations

import dataclasses
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from harvest_assets.data.data import DataSpec
from harvest_assets.decompositions.dictionaries.config import resolved
from harvest_assets.decompositions.own_model.loading import load_source
from harvest_assets.decompositions.own_model.source import Source
from harvest_assets.decompositions.protocol import matching_layers
from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.records import Record
from harvest_assets.files.untrusted import as_record
from harvest_assets.wandb_client.module_path import is_object_path

if TYPE_CHECKING:
    import torch

    from harvest_assets.data.recorded_tokenizer import RecordedTokenizer
    from harvest_assets.decompositions.own_model.model import SourceModel
    from harvest_assets.wandb_client.run_files import RunFiles

_MAX_COMPONENTS = 1 << 28
_LAYER_NAME = re.compile(r"[\w.\-]{1,200}")


@dataclass(frozen=True)
class OwnModel:
    """What was recorded of an object in a module; see `Decomposition`.

    Reading this imports nothing. The module is imported by `verify` and `is_of`, for a path that a
    person gave, and by `open_model` where `registered_at` has compared it with that path.

    Args:
        run: `local/<folder>/x-<8 hex>`.
        config_path: `<file>.py:<name>`.
        checkpoint_path: the module's file.
        sha256: digest of the identity; where there is none, a random one that equals no other.
        repeatable: whether the object has an identity.
        source_layers: (name, number of components) of all its layers.
        layers: of those that are harvested.
        vocab_size: width of the probabilities.
        max_context_length: tokens of the longest row; None: no limit.
        default_ci_threshold: a component fires strictly above.
        tokens_per_forward: tokens that are computed together.
        extra_bytes_per_token: as in `Decomposition`.
        weight_bytes: as in `Decomposition`.
        firing_strength: in words.
        second_value: in words; None if there is none.
        model: in words.
        model_options: those of `ci_noise` and `bf16` that change it.
        source_notes: sentences for readers.
        data: where the rows come from, in rows of the default length.
        tokenizer_vocab_size: the tokenizer's highest id plus one, without added tokens.
        tokenizer_path: the folder of the tokenizer, if it is a local one.
        tokenizer_sha256: digest of its vocabulary.
    """

    kind: ClassVar[str] = "own_model"

    run: str
    config_path: str
    checkpoint_path: str
    sha256: str
    repeatable: bool
    source_layers: tuple[tuple[str, int], ...]
    layers: tuple[tuple[str, int], ...]
    vocab_size: int
    max_context_length: int | None
    default_ci_threshold: float
    tokens_per_forward: int
    extra_bytes_per_token: int
    weight_bytes: int
    firing_strength: str
    second_value: str | None
    model: str
    model_options: tuple[str, ...]
    source_notes: tuple[str, ...]
    data: DataSpec
    tokenizer_vocab_size: int
    tokenizer_path: str | None
    tokenizer_sha256: str | None

    @classmethod
    def recognises(cls, config: Path) -> bool:
        """By the form of its path."""
        return is_object_path(config)

    @classmethod
    def check_config(cls, config: Path) -> None:
        """See `Decomposition`; imports the module."""
        load_source(config)

    @classmethod
    def verify(cls, files: RunFiles) -> OwnModel:
        """Import the module and check what the object returns for one token.

        Raises:
            HarvestError: the module or the object cannot be used.
        """
        import torch

        source = load_source(files.config)
        described = _described(files, source)
        described.open_model("cpu")(torch.zeros((1, 1), dtype=torch.int64))
        return described

    @property
    def step(self) -> None:
        """A function has no step of training."""
        return None

    @property
    def default_context_length(self) -> int:
        """See `Decomposition`."""
        return self.data.n_ctx

    @property
    def n_components(self) -> int:
        """Components of the layers that are harvested."""
        return sum(c for _, c in self.layers)

    @property
    def tokenizer(self) -> RecordedTokenizer:
        """The tokenizer that the object was verified with."""
        from harvest_assets.data.recorded_tokenizer import RecordedTokenizer

        name = self.data.tokenizer_name
        return RecordedTokenizer(name, self.tokenizer_path, self.tokenizer_sha256)

    def is_of(self, files: RunFiles) -> bool:
        """See `Decomposition`; imports the module. False where the object has no identity."""
        if not self.repeatable or self.config_path != str(files.config):
            return False
        now = _described(files, load_source(files.config))
        return dataclasses.asdict(now) == dataclasses.asdict(self)

    def restricted(self, patterns: Sequence[str] | None) -> Self:
        """See `Decomposition`."""
        return dataclasses.replace(self, layers=matching_layers(self.layers, patterns))

    def data_spec(self, context_length: int | None) -> DataSpec:
        """See `Decomposition`."""
        if context_length is None:
            return self.data
        if context_length < 1:
            raise HarvestError(f"context_length is {context_length}; a row has at least one token.")
        return dataclasses.replace(self.data, n_ctx=context_length)

    def options(self) -> frozenset[str]:
        """See `Decomposition`."""
        return frozenset(self.model_options)

    def notes(self) -> list[str]:
        """See `Decomposition`."""
        return list(self.source_notes)

    def warnings(self, ci_threshold: float, context_length: int) -> list[str]:  # noqa: ARG002
        """See `Decomposition`."""
        return self.notes()

    def as_config(self) -> dict[str, Any]:
        """See `Decomposition`."""
        return {
            "kind": self.kind,
            "firing_strength": self.firing_strength,
            "second_value": self.second_value,
            "target": self.model,
            "object": Path(self.config_path).name,
        }

    def model_name(self) -> str:
        """See `Decomposition`."""
        return self.model

    def registered_at(self, path: Path | None) -> OwnModel:
        """The same, and its model can be opened if this is the path that the run is registered at.

        Args:
            path: of the registration, which a command wrote for the path that a person gave.
        """
        if path is None or str(path) != self.config_path:
            return self
        return _RegisteredModel(**vars(self))

    def open_model(
        self,
        device: str | torch.device,  # noqa: ARG002
        *,
        ci_noise: bool = False,  # noqa: ARG002
        bf16: bool = False,  # noqa: ARG002
    ) -> SourceModel:
        """Refuse to: this may have been read from files that somebody else made.

        Raises:
            HarvestError: always.
        """
        raise HarvestError(
            f"{self.config_path} is not imported, because {self.run} is not registered with it on "
            "this machine; name it on the command line: harvest-assets harvest MODULE:NAME."
        )

    def write(self, directory: Path) -> None:
        """Write `run_checkpoint.json` into a directory."""
        _RECORD.write(HarvestLayout(directory).run_checkpoint, self)

    @classmethod
    def open(cls, directory: Path) -> OwnModel:
        """Read `run_checkpoint.json`.

        Raises:
            HarvestError: it is missing, damaged, or of another version.
        """
        return _RECORD.read(HarvestLayout(directory).run_checkpoint)


class _RegisteredModel(OwnModel):
    """One whose module a person named on this machine, so that it may be imported."""

    def open_model(
        self, device: str | torch.device, *, ci_noise: bool = False, bf16: bool = False
    ) -> SourceModel:
        """The model on a device.

        Raises:
            HarvestError: the object has another identity than the one that was verified.
        """
        import torch

        from harvest_assets.decompositions.own_model.model import SourceModel

        source = load_source(Path(self.config_path))
        if self.repeatable != (source.sha256 is not None) or (
            self.repeatable and source.sha256 != self.sha256
        ):
            raise HarvestError(
                f"{self.config_path} has another identity than when the harvest was planned; "
                "materialize run_checkpoint and harvest_plan again."
            )
        return SourceModel(
            self.config_path,
            source.open_model(device, ci_noise=ci_noise, bf16=bf16),
            (self.vocab_size, sum(c for _, c in self.source_layers)),
            self._columns(),
            torch.device(device),
            has_second_value=self.second_value is not None,
        )

    def _columns(self) -> list[range]:
        """Where the components that are harvested are among all of the object."""
        kept, columns, first = dict(self.layers), [], 0
        for name, c in self.source_layers:
            if name in kept:
                columns.append(range(first, first + c))
            first += c
        return columns


def _described(files: RunFiles, source: Source) -> OwnModel:
    """What is recorded of an object.

    Raises:
        HarvestError: a value is of a wrong type or out of range, or there is no such tokenizer.
    """
    from harvest_assets.data.recorded_tokenizer import RecordedTokenizer
    from harvest_assets.data.token_texts import id_limit
    from harvest_assets.data.tokenization import load_tokenizer

    folder, sha256 = files.checkpoint.parent, source.sha256
    spec = source.data_spec(None)
    name = resolved(folder, spec.tokenizer_name)
    tokenizer = RecordedTokenizer.in_use(name)
    layers = tuple(source.layers)
    described = _RegisteredModel(
        run=files.name.key,
        config_path=str(files.config),
        checkpoint_path=str(files.checkpoint),
        sha256=secrets.token_hex(32) if sha256 is None else sha256,
        repeatable=sha256 is not None,
        source_layers=layers,
        layers=layers,
        vocab_size=source.vocab_size,
        max_context_length=source.max_context_length,
        default_ci_threshold=source.default_ci_threshold,
        tokens_per_forward=source.tokens_per_forward,
        extra_bytes_per_token=source.extra_bytes_per_token,
        weight_bytes=source.weight_bytes,
        firing_strength=source.firing_strength,
        second_value=source.second_value,
        model=source.model_name(),
        model_options=tuple(sorted(source.options())),
        source_notes=tuple(source.notes()),
        data=dataclasses.replace(
            spec, dataset_name=resolved(folder, spec.dataset_name), tokenizer_name=name
        ),
        tokenizer_vocab_size=id_limit(load_tokenizer(name), with_added=False),
        tokenizer_path=tokenizer.folder,
        tokenizer_sha256=tokenizer.sha256,
    )
    _check(described)
    return described


def _check(described: OwnModel) -> None:
    """Check what an object says of itself.

    Raises:
        HarvestError: a value is of a wrong type or out of range.
    """
    try:
        as_record(dataclasses.asdict(described), OwnModel)
    except (TypeError, ValueError) as error:
        raise HarvestError(f"{described.config_path}: {reason_of(error)}.") from error
    if not described.sha256.strip():
        raise HarvestError(
            f"{described.config_path} has an empty sha256; expected a digest, or None without one."
        )
    names = [name for name, _ in described.layers]
    if not names or len(set(names)) < len(names):
        raise HarvestError(f"{described.config_path} has the layers {names}; expected names.")
    for name, c in described.layers:
        if not _LAYER_NAME.fullmatch(name) or not 0 < c <= _MAX_COMPONENTS:
            raise HarvestError(
                f"{described.config_path} has the layer {name[:200]!r} with {c} components; "
                "expected letters, digits, '_', '.' and '-', and at least one component."
            )
    for value in ("vocab_size", "tokens_per_forward"):
        if getattr(described, value) < 1:
            raise HarvestError(
                f"{described.config_path} has a {value} of {getattr(described, value)}; expected "
                "at least 1."
            )


def _with_kind(value: OwnModel) -> dict[str, Any]:
    return {"kind": value.kind, **dataclasses.asdict(value)}


_RECORD = Record(
    OwnModel,
    "the description of an object in a module",
    remedy="materialize run_checkpoint again",
    ignore_unknown=True,  # the kind
    fields_of=_with_kind,
)
