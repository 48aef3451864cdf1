"""The statistics of some rows; states of disjoint rows add up (`state_sum.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import Field, model_validator

from harvest_assets.errors import HarvestError
from harvest_assets.files.atomic import fsync_path
from harvest_assets.files.records import FileDigest, Older, Record, damage
from harvest_assets.files.stamps import stamps_of
from harvest_assets.files.untrusted import twice
from harvest_assets.harvester.counters import (
    COUNT_TYPES,
    mirror,
    narrowest,
    packed_length,
    unpack_rows,
)
from harvest_assets.harvester.filled import STATISTICS
from harvest_assets.harvester.histogram import N_BINS
from harvest_assets.harvester.impossible import impossible_values
from harvest_assets.harvester.priorities import highest_ci_first
from harvest_assets.harvester.reservoir import ExampleTable
from harvest_assets.harvester.tensor_file import Expected, load_tensors, save_tensors
from harvest_assets.schemas import ActivationExample
from harvest_assets.settings import MAX_COUNT, CheckedModel, Count, SampleSettings

FORMAT_VERSION = 3
# Version 0.1 wrote this one, without the examples of largest activation.
_OLDER_VERSION = 2
# Beside the uniform sample, so many examples of highest causal importance are kept, and as many of
# largest activation.
N_HIGHEST = 20

_META_FILE = "state.json"
_STATISTICS_FILE = "statistics.safetensors"
_SAMPLE_FILE = "sample.safetensors"
_HIGHEST_CI_FILE = "highest_ci.safetensors"
_TENSOR_FILES = (_STATISTICS_FILE, _SAMPLE_FILE, _HIGHEST_CI_FILE)
# States that an older version began lack it.
_HIGHEST_ACTIVATION_FILE = "highest_activation.safetensors"
# What state.json and the parameters of `Harvester` call two settings of the sample.
_SPELLING = {
    "activation_examples_per_component": "max_examples_per_component",
    "activation_context_tokens_per_side": "context_tokens_per_side",
}


class HarvesterSettings(CheckedModel):
    """What must be equal for states to add up.

    Args:
        layers: (layer, C) in flat order.
        vocab_size: width of the next-token probabilities; token ids are below it.
        sample: which firings are kept.
        cooccurrence: which components fire together is counted.
    """

    layers: tuple[tuple[str, Count], ...] = Field(min_length=1)
    vocab_size: Count
    sample: SampleSettings = SampleSettings()
    cooccurrence: bool = True

    @model_validator(mode="after")
    def _check_layers(self) -> Self:
        if self.n_components > MAX_COUNT:
            raise HarvestError(f"{self.n_components} components are too many.")
        names = [layer for layer, _ in self.layers]
        if len(set(names)) < len(names):
            raise HarvestError(f"The layer {twice(names)!r} is listed twice.")
        return self

    def flat(self) -> dict[str, Any]:
        """All values, under the names of `state.json` and of the parameters of `Harvester`."""
        sample = {_SPELLING.get(k, k): v for k, v in self.sample.model_dump().items()}
        # Version 0.1 counted always, and did not say so.
        switched_off = {} if self.cooccurrence else {"cooccurrence": False}
        return {"layers": self.layers, "vocab_size": self.vocab_size, **sample, **switched_off}

    @classmethod
    def from_flat(cls, values: Mapping[str, Any], *, strict: bool = False) -> HarvesterSettings:
        """The settings from what `flat` returns.

        Args:
            values: by name; lists as good as tuples, as they come from JSON.
            strict: whether a text that holds a number is refused.

        Raises:
            HarvestError: a value is missing, unknown or not valid.
            TypeError: `layers` is not a list of lists.
        """
        spelled = {_SPELLING.get(name, name): name for name in SampleSettings.model_fields}
        rest = {k: v for k, v in values.items() if k not in spelled}
        if "layers" in rest:
            rest["layers"] = tuple(map(tuple, rest["layers"]))
        sample = {spelled[k]: v for k, v in values.items() if k in spelled}
        return cls.model_validate({**rest, "sample": sample}, strict=strict)

    @property
    def n_components(self) -> int:
        """Components of all layers."""
        return sum(c for _, c in self.layers)

    @property
    def n_paired(self) -> int:
        """Components whose co-firings are counted."""
        return self.n_components if self.cooccurrence else 0

    @property
    def window(self) -> int:
        """Tokens of an example."""
        return 2 * self.sample.activation_context_tokens_per_side + 1

    @property
    def component_keys(self) -> list[str]:
        """`layer:index` of every component, in flat order."""
        return [f"{layer}:{index}" for layer, c in self.layers for index in range(c)]


@dataclass(frozen=True)
class HarvesterState:
    """The statistics of some rows, on the CPU; may be backed by memory-mapped files.

    Nothing is stored that can be derived; the properties return the statistics as dense tensors.
    C is the number of components of all layers, V the vocabulary.

    Args:
        settings: what must be equal for states to add up.
        total_tokens_processed: positions seen.
        ci_sums: float64 [C], causal importance summed over all positions.
        ci_histogram: int64 [C, 64], firings by causal importance.
        cooccurrence: narrow integers, packed upper triangle of [C, C].
        input_counts: narrow integers [C, V], firings by the token read.
        input_token_totals: int64 [V], positions with each token.
        output_token_prob_mass: float64 [C, V], next-token probability where a component fires.
        output_token_prob_totals: float64 [V], the same over all positions.
        sample: the uniform sample, by component and priority.
        highest_ci: the 20 firings of highest CI, by component, highest first.
        highest_activation: the 20 firings of largest absolute activation, likewise; None where an
            older version counted rows.
    """

    settings: HarvesterSettings
    total_tokens_processed: int
    ci_sums: torch.Tensor
    ci_histogram: torch.Tensor
    cooccurrence: torch.Tensor
    input_counts: torch.Tensor
    input_token_totals: torch.Tensor
    output_token_prob_mass: torch.Tensor
    output_token_prob_totals: torch.Tensor
    sample: ExampleTable
    highest_ci: ExampleTable
    highest_activation: ExampleTable | None = None

    @property
    def firing_counts(self) -> torch.Tensor:
        """Firings of each component, int64 [C]."""
        return self.ci_histogram.sum(dim=1)

    @property
    def fired(self) -> torch.Tensor:
        """Which components fired, bool [C]."""
        return self.ci_histogram.any(dim=1)

    @property
    def count_ij(self) -> torch.Tensor:
        """Positions at which both components fired, int64 [C, C], symmetric.

        [0, 0] where they are not counted.
        """
        size = self.settings.n_paired
        matrix = unpack_rows(self.cooccurrence, size, 0, size).to(torch.int64)
        mirror(matrix)
        return matrix

    @property
    def input_token_counts(self) -> torch.Tensor:
        """Occurrences of each token where the component fired, int64 [C, V]."""
        return self.input_counts.to(torch.int64)

    def examples(self, flat_component_index: int) -> list[ActivationExample]:
        """The uniform sample of one component's firings, in order of sampling priority.

        Raises:
            IndexError: the index is out of range.
        """
        return self._examples(self.sample, flat_component_index)

    def highest_ci_examples(self, flat_component_index: int) -> list[ActivationExample]:
        """The firings of highest causal importance of one component, highest first.

        Raises:
            IndexError: the index is out of range.
        """
        return self._examples(self.highest_ci, flat_component_index)

    def highest_activation_examples(self, flat_component_index: int) -> list[ActivationExample]:
        """The firings of largest absolute activation of one component, largest first.

        Raises:
            IndexError: the index is out of range.
            HarvestError: the state was begun by an older version, which did not keep them.
        """
        if self.highest_activation is None:
            raise HarvestError(
                "The state has no examples of largest activation; harvest the rows again."
            )
        return self._examples(self.highest_activation, flat_component_index)

    @property
    def example_tables(self) -> dict[str, ExampleTable]:
        """The tables of examples by the names of their files."""
        tables = {_SAMPLE_FILE: self.sample, _HIGHEST_CI_FILE: self.highest_ci}
        if self.highest_activation is not None:
            tables[_HIGHEST_ACTIVATION_FILE] = self.highest_activation
        return tables

    def _examples(self, table: ExampleTable, flat_component_index: int) -> list[ActivationExample]:
        if not 0 <= flat_component_index < self.settings.n_components:
            raise IndexError(
                f"Component {flat_component_index} is out of range; there are "
                f"{self.settings.n_components} components."
            )
        rows = table.of_components(flat_component_index, flat_component_index + 1)
        return [
            ActivationExample(e.token_ids, e.ci_values, e.component_acts) for e in rows.located()
        ]

    @staticmethod
    def merge(states: Sequence[HarvesterState]) -> HarvesterState:
        """The state of all the rows; see `StateSum`, which reads the sum block by block.

        Raises:
            HarvestError: there are no states, or their settings differ.
        """
        from harvest_assets.harvester.state_sum import StateSum

        merged = StateSum(states).state()
        return replace(
            merged,
            cooccurrence=narrowest(merged.cooccurrence),
            input_counts=narrowest(merged.input_counts),
        )

    def save(self, directory: Path) -> None:
        """Write the state into a directory, creating it if necessary."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {
            _STATISTICS_FILE: {name: getattr(self, name) for name in STATISTICS},
            **{file: table._asdict() for file, table in self.example_tables.items()},
        }
        digests = {}
        for file, named in tensors.items():
            digests[file] = save_tensors(directory / file, named)
            fsync_path(directory / file)
        # Written last: a directory without it is not a state.
        meta = _StateMeta(self.total_tokens_processed, self.settings.flat(), digests)
        _META.write(directory / _META_FILE, meta)

    @classmethod
    def load(cls, directory: Path, *, trusted: bool = False) -> HarvesterState:
        """Open a saved state; its tensors are memory-mapped.

        All bytes are compared with their digests, so that no flipped bit is summed; once in a
        process, unless a file has changed since.

        Args:
            directory: of the state.
            trusted: skip that comparison, to display gigabytes without reading them all.

        Raises:
            HarvestError: a file is missing, damaged or of another format.
        """
        directory = Path(directory)
        version = _version(directory)
        trusted = trusted or version in _sound
        problems = [] if trusted else state_damage(directory)
        if problems:
            raise HarvestError(" ".join(problems))
        settings, total_tokens, files = _load_meta(directory / _META_FILE)
        n, v, window = settings.n_components, settings.vocab_size, settings.window
        statistics = load_tensors(
            directory / _STATISTICS_FILE,
            {
                "ci_sums": Expected((n,), (torch.float64,)),
                "ci_histogram": Expected((n, N_BINS), (torch.int64,)),
                "cooccurrence": Expected((packed_length(settings.n_paired),), COUNT_TYPES),
                "input_counts": Expected((n, v), COUNT_TYPES),
                "input_token_totals": Expected((v,), (torch.int64,)),
                "output_token_prob_mass": Expected((n, v), (torch.float64,)),
                "output_token_prob_totals": Expected((v,), (torch.float64,)),
            },
        )
        columns = {
            name: Expected((-1, *column.shape[1:]), (column.dtype,))
            for name, column in ExampleTable.empty(window)._asdict().items()
        }
        tables = {
            file: ExampleTable(**load_tensors(directory / file, columns))
            for file in files
            if file != _STATISTICS_FILE
        }
        state = cls(
            settings=settings,
            total_tokens_processed=total_tokens,
            sample=tables[_SAMPLE_FILE],
            highest_ci=tables[_HIGHEST_CI_FILE],
            highest_activation=tables.get(_HIGHEST_ACTIVATION_FILE),
            **statistics,
        )
        for problem in () if trusted else impossible_values(state):
            raise HarvestError(f"{directory} is not a valid state: {problem}.")
        if version and not trusted:
            _sound.add(version)
        return state if state.highest_activation is not None else state._with_new_priorities()

    def _with_new_priorities(self) -> HarvesterState:
        """The state with the order of today in `highest_ci`, whose rows stay where they are.

        Version 0.1 ordered the firings by CI and random priority only.
        """
        table, middle = self.highest_ci, self.settings.window // 2
        priority = highest_ci_first(table.ci_values[:, middle], table.component_acts[:, middle])
        return replace(self, highest_ci=table._replace(priority=priority))


# The versions of the states whose bytes this process has compared with their digests.
_sound: set[tuple[Any, ...]] = set()


def _version(directory: Path) -> tuple[Any, ...] | None:
    """The directory and the stamps of its files; None if one is missing or was changed just now."""
    try:
        files = [directory / name for name in (_META_FILE, *_TENSOR_FILES)]
        newer = directory / _HIGHEST_ACTIVATION_FILE
        stamps = stamps_of([*files, newer] if newer.exists() else files)
    except OSError:
        return None
    return stamps and (directory, *stamps)


def state_damage(directory: Path) -> list[str]:
    """The problems with the files of a saved state, as sentences.

    Raises:
        HarvestError: its description is damaged, or of another format version.
    """
    _, _, files = _load_meta(directory / _META_FILE)
    return damage(directory, files)


@dataclass(frozen=True)
class _StateMeta:
    """What `state.json` holds: settings, tokens seen, and what the other files must be."""

    total_tokens_processed: Annotated[int, Field(ge=0, lt=1 << 62)]
    settings: dict[str, Any]
    files: dict[str, FileDigest]

    def __post_init__(self) -> None:
        if self.files.keys() - {_HIGHEST_ACTIVATION_FILE} != set(_TENSOR_FILES):
            raise ValueError(f"its files are not {', '.join(_TENSOR_FILES)}")


_META = Record(
    _StateMeta,
    "the description of a harvester state",
    FORMAT_VERSION,
    older=Older(_OLDER_VERSION, has_digest=True),
)


def _load_meta(path: Path) -> tuple[HarvesterSettings, int, dict[str, FileDigest]]:
    """Settings, tokens that were seen, and what the other files must be."""
    meta = _META.read(path)
    try:
        settings = HarvesterSettings.from_flat(meta.settings, strict=True)
    except (HarvestError, TypeError) as error:
        reason = str(error).rstrip(".")
        raise HarvestError(f"{path} has settings of no harvester state: {reason}.") from error
    return settings, meta.total_tokens_processed, meta.files
