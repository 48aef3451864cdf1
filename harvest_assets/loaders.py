"""Read a harvest by its folder or its run; `None` where there is none.

A full name (`entity/project/run_id`, and every other accepted spelling) finds only that run's own
harvest, also in a folder of another name; with `@name` at its end a further harvest of the run.
Where a name means no harvest, or a run has several, a warning lists the existing ones.

Importing this module loads neither torch nor polars: they are imported where they are used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, get_args

from harvest_assets.errors import HarvestError, HarvestNotFoundError
from harvest_assets.files.layout import HarvestLayout, is_folder_name, run_cache_dir
from harvest_assets.files.sanitize import presentable
from harvest_assets.files.untrusted import read_json, text_of
from harvest_assets.schemas import ComponentData, ComponentSummary, ExampleOrder, LocatedExample

if TYPE_CHECKING:
    import polars as pl

    from harvest_assets.data.recorded_tokenizer import OpenedTokenizer, RecordedTokenizer
    from harvest_assets.data.vocabulary import Vocabulary
    from harvest_assets.interpretations.storage import History
    from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage

P = ParamSpec("P")
T = TypeVar("T")

_SHOWN_CHARACTERS = 24  # of a context, on each side and of the token


@dataclass(frozen=True, slots=True)
class DecodedExample:
    """An example with its tokens as text.

    Args:
        tokens: the text of each token by itself, empty outside the sequence.
        firing_index: which of them the component fired on.
        example: ids, causal importances and component activations, row and position.
        context: the text of each token in its context: as `tokens`, but characters that are made
            up of several tokens are whole in one of them, so that joined they are the text.
    """

    tokens: list[str]
    firing_index: int
    example: LocatedExample
    context: list[str]

    @classmethod
    def of(cls, example: LocatedExample, vocabulary: Vocabulary) -> DecodedExample:
        """An example decoded with a vocabulary."""
        ids, middle = example.token_ids, len(example.token_ids) // 2
        tokens = [vocabulary.text(token) for token in ids]
        return cls(tokens, middle, example, vocabulary.context(ids, middle))

    @property
    def row(self) -> int | None:
        """Row of the harvest; None where not recorded."""
        return self.example.row

    @property
    def position(self) -> int | None:
        """Position in the row; None where not recorded."""
        return self.example.position

    def __str__(self) -> str:
        marked = list(self.context)
        marked[self.firing_index] = f"<<{marked[self.firing_index]}>>"
        return "".join(marked)

    def __repr__(self) -> str:
        before = "".join(self.context[: self.firing_index])[-_SHOWN_CHARACTERS:]
        after = "".join(self.context[self.firing_index + 1 :])[:_SHOWN_CHARACTERS]
        fires = self.context[self.firing_index][:_SHOWN_CHARACTERS]
        text = f"{before}<<{fires}>>{after}"
        return f"DecodedExample({text!r}, row {self.row}, position {self.position})"


def _none_if_not_found(load: Callable[P, T | None]) -> Callable[P, T | None]:
    """Make a loader return None, and warn with a list of harvests, if a name means none of them."""

    @wraps(load)
    def load_or_warn(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return load(*args, **kwargs)
        except HarvestNotFoundError as error:
            warnings.warn(presentable(str(error)), stacklevel=2)
            return None

    return load_or_warn


@_none_if_not_found
def load_activation_contexts_summary(run_id: str) -> dict[str, ComponentSummary] | None:
    """The components that fired, each with layer, index and mean CI.

    Args:
        run_id: the folder below `harvest/`, or any name of the run, or a path to it.

    Raises:
        HarvestError: the file is damaged, or `run_id` is neither the name of a folder nor of a run.
    """
    from harvest_assets.results.components_jsonl import read_summary

    paths = _harvest(run_id)
    return read_summary(paths) if paths.summary.exists() else None


@_none_if_not_found
def load_activation_context_single(run_id: str, component_key: str) -> ComponentData | None:
    """The results for one component; None also if it never fired.

    The arguments and errors are those of `load_activation_contexts_summary`; the other components
    are not read.
    """
    from harvest_assets.results.components_jsonl import read_component

    paths = _harvest(run_id)
    return read_component(paths, component_key) if paths.components.exists() else None


@_none_if_not_found
def load_correlations(run_id: str) -> CorrelationStorage | None:
    """Firing and co-firing counts, memory-mapped.

    The arguments and errors are those of `load_activation_contexts_summary`.
    """
    from harvest_assets.results.count_tensors import CorrelationStorage

    path = _harvest(run_id).component_correlations
    return CorrelationStorage.load(path) if path.exists() else None


@_none_if_not_found
def load_token_stats(run_id: str) -> TokenStatsStorage | None:
    """Token counts and probability mass, memory-mapped.

    The arguments and errors are those of `load_activation_contexts_summary`.
    """
    from harvest_assets.results.count_tensors import TokenStatsStorage

    path = _harvest(run_id).token_stats
    return TokenStatsStorage.load(path) if path.exists() else None


@_none_if_not_found
def load_components_frame(run_id: str) -> pl.DataFrame | None:
    """All components as a table, one a row, in flat order.

    Columns: component_key, layer, component_idx, flat_index, firing_count, mean_ci, ci_histogram
    (64 bins, see `harvester.histogram`), offset and length of the line in `components.jsonl`,
    telling, telling_input_tokens, telling_output_tokens (see `analysis` and
    `pmi.informative_tokens`).
    A harvest of another writer has only component_key, layer, component_idx and mean_ci, and only
    the components that fired.
    Where anything was written about components (`load_interpretations`), also what holds now:
    label, label_source, label_author, confidence, reason, note, starred, tags, and
    `score_<method>` for each method of scoring.

    The arguments and errors are those of `load_activation_contexts_summary`.
    """
    import polars as pl

    from harvest_assets.results.component_index import ComponentIndex, read_index
    from harvest_assets.results.components_jsonl import read_summary

    paths = _harvest(run_id)
    if not paths.summary.exists():
        return None
    if ComponentIndex.open(paths) is not None:
        # Not by Polars' own reader, which panics on damaged files.
        return _interpreted(paths, cast("pl.DataFrame", pl.from_arrow(read_index(paths))))
    frame = pl.DataFrame(
        [
            (key, entry.layer, entry.component_idx, float(entry.mean_ci))
            for key, entry in read_summary(paths).items()
        ],
        schema={
            "component_key": pl.String,
            "layer": pl.String,
            "component_idx": pl.Int32,
            "mean_ci": pl.Float64,
        },
        orient="row",
    )
    return _interpreted(paths, frame)


@_none_if_not_found
def load_interpretations(run_id: str) -> History | None:
    """All labels, scores and edits that were ever written, and `current()`: what holds now.

    The arguments and errors are those of `load_activation_contexts_summary`. A file that cannot be
    read is left out with a warning.
    """
    return _history(_harvest(run_id))


@_none_if_not_found
def activation_examples(
    run_id: str, component_key: str, k: int, order: ExampleOrder = "sample"
) -> list[DecodedExample] | None:
    """Examples of one component with their tokens decoded; None if it never fired.

    Args:
        run_id: the folder below `harvest/`, or any name of the run, or a path to it.
        component_key: of the component.
        k: how many at most.
        order: `sample`, the first k of the uniform sample, themselves a uniform sample; `ci`, the
            firings of highest causal importance; or `activation`, those of largest absolute
            activation. 20 of each are kept; a harvest that version 0.1 began lacks those of
            `activation`, for which the sample is sorted instead.

    Raises:
        HarvestError: the order is unknown, a file is damaged, or the tokenizer is missing or is
            not the one the harvest was made with.
    """
    from harvest_assets.results.component_index import ComponentIndex
    from harvest_assets.results.examples import StoredExamples

    if order not in get_args(ExampleOrder):
        raise HarvestError(f"order is {order!r}; expected one of {get_args(ExampleOrder)}.")
    paths = _harvest(run_id)
    if not paths.components.exists():
        return None
    found = StoredExamples(paths, ComponentIndex.open(paths)).of(component_key, order)
    if found is None:
        return None
    vocabulary = _vocabulary(paths)
    return [DecodedExample.of(example, vocabulary) for example in found[: max(0, k)]]


def load_tokenizer_of(run_id: str) -> Any:
    """The `transformers` tokenizer of the run that was harvested.

    Raises:
        HarvestError: the harvest does not name it, or it is missing, or it is another one.
        HarvestNotFoundError: there is no such harvest, or the run has several.
    """
    from harvest_assets.data.tokenization import load_tokenizer

    paths = _harvest(run_id)
    opened = recorded_tokenizer(paths).open(paths.tokenizer)
    if opened.warning is not None:
        warnings.warn(opened.warning, stacklevel=2)
    return load_tokenizer(opened.source, download=False)


def load_vocabulary_of(run_id: str) -> Vocabulary:
    """The texts of the run's tokens, the same for all readers.

    The errors are those of `load_tokenizer_of`.
    """
    return _vocabulary(_harvest(run_id))


def _history(paths: HarvestLayout) -> History:
    from harvest_assets.interpretations.storage import Interpretations

    history = Interpretations(paths).history()
    for problem in history.problems:
        warnings.warn(problem, stacklevel=4)
    return history


def _interpreted(paths: HarvestLayout, frame: pl.DataFrame) -> pl.DataFrame:
    """A frame of components with what was written about them, if anything was."""
    if not paths.interpretations.is_dir() or not (history := _history(paths)):
        return frame
    from harvest_assets.interpretations.current import joined

    return joined(frame, history.current())


def recorded_tokenizer(paths: HarvestLayout) -> RecordedTokenizer:
    """The tokenizer that a harvest was made with.

    Raises:
        HarvestError: the harvest does not name it.
    """
    from harvest_assets.data.recorded_tokenizer import RecordedTokenizer

    name = tokenizer_name(paths)
    try:
        return RecordedTokenizer.of({**read_json(paths.config), "tokenizer_name": name})
    except (OSError, ValueError, TypeError) as error:
        raise HarvestError(f"{paths.config} does not name the tokenizer.") from error


def tokenizer_name(paths: HarvestLayout) -> str:
    """The tokenizer in `config.json`; older writers named only the run, whose own config is read.

    Raises:
        HarvestError: neither names it.
    """
    try:
        config = read_json(paths.config)
        if "tokenizer_name" not in config:
            config = _run_config(text_of(config["wandb_path"]))
        return text_of(config["tokenizer_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HarvestError(f"{paths.config} does not name the tokenizer.") from error


def _run_config(run: str) -> dict[str, Any]:
    from harvest_assets.files.yaml_file import read_mapping
    from harvest_assets.wandb_client.run_name import parse_run

    name = parse_run(run).name
    return read_mapping(run_cache_dir(name.project, name.run_id) / "final_config.yaml")


def _vocabulary(paths: HarvestLayout) -> Vocabulary:
    # A relative name means another file in another working directory.
    opened = _opened(recorded_tokenizer(paths), paths.tokenizer, Path.cwd())
    if opened.warning is not None:
        warnings.warn(opened.warning, stacklevel=3)
    return opened.vocabulary


@lru_cache(maxsize=4)
def _opened(recorded: RecordedTokenizer, kept: Path, _cwd: Path) -> OpenedTokenizer:
    return recorded.open(kept)


def _harvest(run_id: str) -> HarvestLayout:
    """The paths of a harvest; warns if its files do not belong together or name no run.

    Raises:
        HarvestError: `run_id` is neither the name of a folder nor of a run.
        HarvestNotFoundError: there is no such harvest, or the run has several.
    """
    from harvest_assets.files.manifest import disagreements
    from harvest_assets.store.lookup import find_harvest
    from harvest_assets.store.registry import owner_of
    from harvest_assets.wandb_client.run_name import is_run_name

    names_run = is_run_name(run_id) or is_run_name(run_id.rpartition("@")[0])
    if not names_run and not is_folder_name(run_id.rstrip("/").rpartition("/")[2]):
        raise HarvestError(
            f"{run_id[:200]!r} is not a valid run id; expected the name of a run or of a folder."
        )
    paths = find_harvest(run_id)
    problems = disagreements(paths) if paths.manifest.exists() else []
    if paths.root.name != run_id and owner_of(paths) is None:
        problems.append(f"{paths.root} does not name its run; it may not be {run_id}'s.")
    for problem in problems:
        warnings.warn(problem, stacklevel=4)
    return paths
