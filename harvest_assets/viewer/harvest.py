"""What pages show of a harvest, finished or in progress."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harvest_assets.data.vocabulary import Vocabulary
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.store.imported import IMPORTED
from harvest_assets.store.registry import owner_of
from harvest_assets.suggestions import key_hint
from harvest_assets.viewer.typicality import Typicality
from harvest_assets.viewer.words import Words, words_of
from harvest_assets.wandb_client.run_name import parse_run

if TYPE_CHECKING:
    import polars as pl

    from harvest_assets.data.recorded_tokenizer import RecordedTokenizer
    from harvest_assets.schemas import ExampleOrder, LocatedExample
    from harvest_assets.viewer.interpreted import Interpreted

_INFORMATIVE = ("reads", "predicts")


@dataclass(frozen=True)
class Progress:
    """How much of a harvest has been saved.

    Args:
        rows: rows that the counts shown cover.
        rows_wanted: rows of the whole harvest.
        shards: per shard of the plan, its name, rows covered, and rows of its share.
    """

    rows: int
    rows_wanted: int
    shards: tuple[tuple[str, int, int], ...]

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.rows / self.rows_wanted if self.rows_wanted else 0.0


def page_vocabulary(
    recorded: Callable[[], RecordedTokenizer], paths: HarvestLayout
) -> tuple[Vocabulary, list[str]]:
    """The vocabulary to show tokens with, and warnings about it.

    Without the harvest's own tokenizer, tokens are shown as ids.
    """
    try:
        opened = recorded().open(paths.tokenizer)
    except HarvestError as error:
        return Vocabulary.unknown(), [f"Tokens are shown as ids. {error}"]
    return opened.vocabulary, [] if opened.warning is None else [opened.warning]


def layers_of(frame: pl.DataFrame) -> pl.DataFrame:
    """The layers of some components, in their order, with the columns of `Harvest.layers`."""
    import polars as pl

    return frame.group_by("layer", maintain_order=True).agg(
        pl.len().alias("components"),
        (pl.col("firing_count") > 0).sum().alias("alive"),
        pl.col("density").sum().alias("l0"),
        pl.col("mean_ci").sum().alias("mean_ci"),
    )


class Harvest(ABC):
    """One harvest as it was when it was opened; C components, V tokens.

    Args:
        name: the folder below `harvest/`.
        config: what was harvested and how.
        frame: all components in flat order: component_key, layer, component_idx, flat_index,
            firing_count, density (firings per token), mean_ci, and informativeness, reads, predicts
            (token ids), which are null where not known.
        n_tokens: positions seen.
        vocabulary: of the run's tokenizer.
        warnings: what is wrong with the files, in sentences.
        progress: None for a finished harvest.
        paths: of its files, where they are not in the folder `name` below `harvest/`.
    """

    def __init__(
        self,
        name: str,
        config: dict[str, Any],
        frame: pl.DataFrame,
        n_tokens: int,
        vocabulary: Vocabulary,
        warnings: list[str],
        progress: Progress | None = None,
        paths: HarvestLayout | None = None,
    ) -> None:
        self.name = name
        self.paths = paths or HarvestLayout.of(name)
        self.config = config
        self.frame = frame
        self.n_tokens = n_tokens
        self.vocabulary = vocabulary
        self.warnings = warnings
        self.progress = progress
        # Identifies the files that it was opened from; set by `Library`.
        self.version = ""
        # Places in the order of a table, by its query: kept for the links to next and previous.
        self.orders: dict[Any, NDArray[np.int64]] = {}
        # What was written about its components, as it was last read; see `interpreted`.
        self.interpreted: Interpreted | None = None

    @cached_property
    def places(self) -> dict[str, int]:
        """The row of each component in `frame`."""
        return {key: place for place, key in enumerate(self.frame["component_key"])}

    def place_of(self, key: str) -> int:
        """The row of a component in `frame`.

        Raises:
            HarvestError: there is no such component.
        """
        place = self.places.get(key)
        if place is None:
            hint = key_hint(key, list(self.places))
            raise HarvestError(f"There is no component {key!r} in {self.name}.{hint}")
        return place

    @cached_property
    def layers(self) -> pl.DataFrame:
        """Per layer, in flat order: layer, components, alive, l0, mean_ci (summed)."""
        return layers_of(self.frame)

    @cached_property
    def run(self) -> str:
        """The run as people name it, followed by `@name` for a further harvest of it."""
        owner = owner_of(self.paths)
        if owner is not None:
            return owner
        name = str(self.config.get("wandb_path") or self.config.get("run") or self.name)
        try:
            return parse_run(name).name.key
        except HarvestError:
            return name

    @cached_property
    def words(self) -> Words:
        """What pages call the values of a component."""
        return words_of(self.config)

    @cached_property
    def typicality(self) -> Typicality:
        """How firing strengths compare with those that were harvested."""
        return Typicality(self)

    @property
    def is_imported(self) -> bool:
        """Whether it was imported from another program's files."""
        return IMPORTED in self.config

    @property
    def has_informativeness(self) -> bool:
        """Whether the informativeness of components is known."""
        return self.frame["informativeness"].null_count() < len(self.frame)

    def informative_tokens(self, place: int) -> tuple[list[int], list[int]]:
        """The tokens read and predicted that a firing is most informative about."""
        row = self.frame[place]
        return tuple([] if row[n][0] is None else row[n][0].to_list() for n in _INFORMATIVE)

    @abstractmethod
    def ci_histogram(self, place: int) -> NDArray[np.int64] | None:
        """Firings of a component by causal importance, int64 [64]; None where not kept."""

    @property
    @abstractmethod
    def counts_cofirings(self) -> bool:
        """Whether it was counted which components fire together."""

    @abstractmethod
    def together(self, place: int) -> NDArray[np.int64]:
        """Positions at which each component fired with one, int64 [C]."""

    @abstractmethod
    def input_counts(self, place: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Occurrences of each token where a component fired, and at all positions: [V], [V]."""

    @abstractmethod
    def output_mass(self, place: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Probability sums of next tokens where a component fired, and of all: [V], [V]."""

    @abstractmethod
    def examples(self, place: int, order: ExampleOrder) -> list[LocatedExample]:
        """Examples of a component: the uniform sample, or those of one of `example_orders`."""

    @property
    @abstractmethod
    def has_highest_activation(self) -> bool:
        """Whether the firings of largest activation were kept."""

    @property
    def example_orders(self) -> tuple[ExampleOrder, ...]:
        """The lists of examples that there are."""
        return ("sample", "ci", "activation") if self.has_highest_activation else ("sample", "ci")

    @cached_property
    def firing_counts(self) -> NDArray[np.int64]:
        """Firings of each component, int64 [C]."""
        return self.frame["firing_count"].to_numpy()
