"""A finished harvest as the JSON files from which Neuronpedia's dashboards are made.

SAEDashboard's `neuronpedia-runner` writes such files, a folder for each source; here a layer is a
source. Its folder has `run_settings.json`, `skipped_indexes.json` (components that never fired) and
`batch-<n>.json` with up to 128 components each. In an entry of a batch:

1. `activations` are the firings of highest strength and a uniform sample of all, with the firing
   strength of each token (of SPD the causal importance).
2. `pos_str` and `neg_str` are the predicted tokens of highest and lowest PMI with the firings, in
   place of the decoder's logits.
3. `freq_hist_data` is the harvest's histogram, whose bins have equal width in log strength.
4. What a harvest does not have, such as neurons and histograms of logits, is an empty list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import orjson

from harvest_assets.data.recorded_tokenizer import RecordedTokenizer
from harvest_assets.data.vocabulary import Vocabulary
from harvest_assets.errors import HarvestError
from harvest_assets.files.free_space import require_free
from harvest_assets.files.layout import HarvestLayout, is_folder_name
from harvest_assets.files.records import sha256_of
from harvest_assets.results.component_index import ComponentIndex, read_index
from harvest_assets.results.components_jsonl import read_component
from harvest_assets.results.count_tensors import CorrelationStorage
from harvest_assets.results.examples import StoredExamples
from harvest_assets.schemas import ActivationExample, ci_bin_edges
from harvest_assets.sharing.contents import Watch
from harvest_assets.sharing.exporting import Source, new_folder

_BATCH = 128  # entries of a file
_TOKENS = 10  # in a list of predicted tokens
_SAMPLED = 20  # examples of the uniform sample: any first ones are one themselves
_TOP, _UNKNOWN = -1, -1  # how these files mark the group of the highest activations
_DECIMALS = 4
_MAX_DIGITS = 10  # of the number of a layer
_BYTES_PER_LINE = 3  # of the files, for each byte of `components.jsonl`, about
_EMPTY = (
    *("neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1"),
    *("correlated_neurons_indices", "correlated_neurons_l1", "correlated_neurons_pearson"),
    *("correlated_features_indices", "correlated_features_l1", "correlated_features_pearson"),
    *("logits_hist_data_bar_heights", "logits_hist_data_bar_values"),
    *("decoder_weights_dist", "vector"),
)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        folder: `neuronpedia-YYYYMMDD_HHMMSS`, in UTC, with a folder for each layer.
        n_components: entries of all batches.
        n_layers: folders.
        n_bytes: of all files.
    """

    folder: Path
    n_components: int
    n_layers: int
    n_bytes: int


def export(paths: HarvestLayout, folder: Path, watch: Watch) -> Exported:
    """Write a finished harvest into a new folder, complete or not at all.

    Args:
        paths: of the harvest.
        folder: in which `neuronpedia-YYYYMMDD_HHMMSS` is made.
        watch: is shown the progress.

    Raises:
        HarvestError: the harvest is not finished or is damaged, its tokenizer is not found, a layer
            cannot name a folder, the folder to be made exists or would be listed as a harvest, or
            the disk is too full.
        OSError: the folder cannot be written.
    """
    source = Source.open(paths)
    for file in (paths.components, paths.component_index, paths.highest_ci_examples):
        source.check(file, sha256_of(file))
    require_free(
        folder,
        _BYTES_PER_LINE * paths.components.stat().st_size,
        at_least=0,
        remedy="export to a larger disk",
    )
    with new_folder(folder, "neuronpedia-") as (staging, target):
        return _Export(source, _vocabulary(source), watch).write(staging, target)


def _vocabulary(source: Source) -> Vocabulary:
    try:
        recorded = RecordedTokenizer.of(source.config)
    except (KeyError, TypeError):
        raise HarvestError(f"{source.paths.config} does not name the tokenizer.") from None
    return recorded.open(source.paths.tokenizer).vocabulary


class _Export:
    """The files of one export.

    Args:
        source: the harvest.
        vocabulary: of its tokenizer.
        watch: is shown the progress.
    """

    def __init__(self, source: Source, vocabulary: Vocabulary, watch: Watch) -> None:
        self._source, self._vocabulary, self._watch = source, vocabulary, watch
        paths = source.paths
        self._index = ComponentIndex.open(paths)
        self._examples = StoredExamples(paths, self._index)
        counts = CorrelationStorage.load(paths.component_correlations)
        self._n_tokens = counts.count_total
        self._done, self._n_bytes = 0, paths.components.stat().st_size

    def write(self, staging: Path, target: Path) -> Exported:
        """Write all files; `target` is the name that the folder is going to have."""
        rows = read_index(self._source.paths).to_pylist()
        n_components = n_layers = 0
        for layer, components in groupby(rows, key=lambda row: row["layer"]):
            if not is_folder_name(layer):
                raise HarvestError(f"The layer {layer[:200]!r} cannot be the name of a folder.")
            (staging / layer).mkdir()
            n_components += self._write_layer(staging / layer, n_layers, list(components))
            n_layers += 1
        n_bytes = sum(file.stat().st_size for file in staging.rglob("*.json"))
        return Exported(target, n_components, n_layers, n_bytes)

    def _write_layer(self, folder: Path, place: int, rows: Sequence[dict[str, Any]]) -> int:
        """Write the folder of a layer; returns the number of components that fired."""
        run = self._source.plan.run.rpartition("/")[2]
        named = {"model_id": run, "layer": _layer_number(folder.name, place), "sae_set": run}
        alive = [row for row in rows if row["offset"] is not None]
        for number, start in enumerate(range(0, len(alive), _BATCH)):
            features = [self._feature(row) for row in alive[start : start + _BATCH]]
            content = {**named, "sae_id_suffix": folder.name, "features": features}
            (folder / f"batch-{number}.json").write_bytes(orjson.dumps(content))
        dead = [row["component_idx"] for row in rows if row["offset"] is None]
        skipped = {**named, "layer": str(named["layer"]), "log_sparsity": None}
        for name, content in (
            ("skipped_indexes.json", {**skipped, "skipped_indexes": dead}),
            ("run_settings.json", {**named, **self._settings(folder.name)}),
        ):
            (folder / name).write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        return len(alive)

    def _settings(self, layer: str) -> dict[str, Any]:
        plan, config = self._source.plan, self._source.config
        is_spd = self._source.kind == "spd"
        return {
            "sae_path": layer,
            "np_sae_id_suffix": layer,
            **self._data(),
            "harvest": plan.run,
            "checkpoint_sha256": plan.checkpoint_sha256,
            "activations_are": (
                "causal importance" if is_spd else config.get("firing_strength", "activation")
            ),
            "activation_threshold": plan.ci_threshold,
            "logits_are": "pointwise mutual information of firings and predicted tokens, in nats",
            "harvest_assets_version": config.get("harvest_assets_version"),
        }

    def _data(self) -> dict[str, Any]:
        length = self._source.plan.context_length
        return {
            "n_prompts_total": self._n_tokens // length,
            "n_tokens_in_prompt": length,
            "dataset": str(self._source.config.get("dataset_name", "")),
        }

    def _feature(self, row: dict[str, Any]) -> dict[str, Any]:
        """The entry of a component that fired."""
        paths, key = self._source.paths, row["component_key"]
        component = read_component(paths, key, self._index)
        highest = self._examples.of(key, "ci")
        if component is None or not highest:
            raise HarvestError(f"{paths.components} lacks the line of {key}, which fired.")
        self._done += row["length"]
        self._watch("exporting", self._done, self._n_bytes)
        sampled = component.activation_examples[:_SAMPLED]
        most = _strength(highest[0])
        predicted = component.output_token_pmi
        return {
            "feature_index": row["component_idx"],
            **{name: [] for name in _EMPTY},
            **self._tokens("pos", predicted.top),
            **self._tokens("neg", predicted.bottom),
            "frac_nonzero": row["firing_count"] / self._n_tokens,
            **_histogram(row["ci_histogram"]),
            **self._data(),
            "activations": [
                *(self._activation(it, _TOP, most, _UNKNOWN) for it in highest),
                # One interval, which has all firings.
                *(
                    self._activation(it, self._source.plan.ci_threshold, most, 1.0)
                    for it in sampled
                ),
            ],
        }

    def _tokens(self, end: str, pmi: Sequence[tuple[int, float]]) -> dict[str, list[Any]]:
        first = pmi[:_TOKENS]
        return {
            f"{end}_str": [self._vocabulary.text(token) for token, _ in first],
            f"{end}_values": [round(value, _DECIMALS) for _, value in first],
        }

    def _activation(
        self, example: ActivationExample, low: float, high: float, share: float
    ) -> dict[str, Any]:
        """A window without the places outside its row."""
        middle = len(example.token_ids) // 2
        inside = [place for place, token in enumerate(example.token_ids) if token >= 0]
        kept = slice(inside[0], inside[-1] + 1)
        return {
            "bin_min": low,
            "bin_max": high,
            "bin_contains": share,
            "tokens": self._vocabulary.context(example.token_ids, middle)[kept],
            "values": example.ci_values[kept],
            "qualifying_token_index": middle - inside[0],
        }


def _strength(example: ActivationExample) -> float:
    return example.ci_values[len(example.ci_values) // 2]


def _layer_number(layer: str, place: int) -> int:
    """The first number in the path of a layer; without one, its place among the layers."""
    parts = layer.split(".")
    numbers = (it for it in parts if it.isascii() and it.isdecimal() and len(it) < _MAX_DIGITS)
    return next(map(int, numbers), place)


def _histogram(counts: Sequence[int]) -> dict[str, list[Any]]:
    """The bins, each with the middle of its interval in log strength; an open one with its edge."""
    edges = ci_bin_edges(len(counts)).tolist()
    middles = [edges[0], *(math.sqrt(a * b) for a, b in pairwise(edges)), edges[-1]]
    return {
        "freq_hist_data_bar_values": [float(f"{value:.{_DECIMALS}g}") for value in middles],
        "freq_hist_data_bar_heights": list(counts),
    }
