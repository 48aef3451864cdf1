"""A finished harvest in the newer form of SPD: `harvest.db` with its two `.pt` files.

Programs of that form read `<folder>/h-YYYYMMDD_HHMMSS/`, the last by name:

1. `component_correlations.pt` and `token_stats.pt`, whose keys are those of our files: copied.
2. `harvest.db`, SQLite without a write-ahead log, so that it opens on network file systems too.
   The table `components` has a row for each component that fired, with BLOBs of JSON; `config`
   has the settings; `scores` has what the components were scored.

The folder is written under a hidden name beside its place and then renamed.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.free_space import require_free
from harvest_assets.files.hashed_file import HashedFile
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.results.components_jsonl import lines_of, parse_component
from harvest_assets.results.count_tensors import CorrelationStorage
from harvest_assets.schemas import ActivationExample, ComponentData, ComponentTokenPMI
from harvest_assets.sharing.contents import Watch
from harvest_assets.sharing.exporting import Source, new_folder

# Component, method, score and details as JSON.
ScoreRow = tuple[str, str, float, str]

_DATABASE = "harvest.db"
_CHUNK = 1 << 22
_SCHEMA = """
CREATE TABLE components (
    component_key TEXT PRIMARY KEY, layer TEXT NOT NULL, component_idx INTEGER NOT NULL,
    firing_density REAL NOT NULL, mean_activations TEXT NOT NULL,
    activation_examples TEXT NOT NULL, input_token_pmi TEXT NOT NULL,
    output_token_pmi TEXT NOT NULL);
CREATE TABLE config (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE scores (
    component_key TEXT NOT NULL, score_type TEXT NOT NULL, score REAL NOT NULL,
    details TEXT NOT NULL, PRIMARY KEY (component_key, score_type));
"""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        folder: `h-YYYYMMDD_HHMMSS`, in UTC.
        n_components: rows of `components`.
        n_scores: rows of `scores`.
        n_bytes: of all files.
        has_correlations: whether co-firings were counted, and so their file written.
    """

    folder: Path
    n_components: int
    n_scores: int
    n_bytes: int
    has_correlations: bool


def export(
    paths: HarvestLayout, folder: Path, scores: Iterable[ScoreRow], watch: Watch
) -> Exported:
    """Write a finished harvest of an SPD run into a new folder, complete or not at all.

    Args:
        paths: of the harvest.
        folder: in which `h-YYYYMMDD_HHMMSS` is made.
        scores: of components; those of components that never fired are left out.
        watch: is shown the progress.

    Raises:
        HarvestError: the harvest is not finished, is damaged or is not of an SPD run, the folder to
            be made exists or would be listed as a harvest, or the disk is too full.
        OSError: the folder cannot be written.
    """
    source = Source.open(paths)
    if source.kind != "spd":
        raise HarvestError(
            f"{paths.root} is a harvest of {source.kind[:100]}; {_DATABASE} has only a form for "
            "those of SPD runs."
        )
    with new_folder(folder, "h-") as (staging, target):
        return _Export(source, staging, watch).write(scores, target)


class _Export:
    """The files of one export.

    Args:
        source: the harvest.
        staging: an empty folder.
        watch: is shown the progress.
    """

    def __init__(self, source: Source, staging: Path, watch: Watch) -> None:
        self._source, self._staging, self._watch = source, staging, watch
        paths = source.paths
        files = (paths.component_correlations, paths.token_stats, paths.components)
        self._n_bytes, self._done = sum(file.stat().st_size for file in files), 0

    def write(self, scores: Iterable[ScoreRow], target: Path) -> Exported:
        """Write all files; `target` is the name that the folder is going to have."""
        require_free(self._staging, self._n_bytes, remedy="export to a larger disk")
        self._copy(self._source.paths.token_stats)
        copy = self._copy(self._source.paths.component_correlations)
        counts = CorrelationStorage.load(copy)
        if counts.count_ij is None:
            copy.unlink()  # readers of the form expect co-firings, or no file
        n_components, n_scores = self._write_database(counts, scores)
        n_bytes = sum(file.stat().st_size for file in self._staging.iterdir())
        return Exported(target, n_components, n_scores, n_bytes, counts.count_ij is not None)

    def _advance(self, n: int) -> None:
        self._done += n
        self._watch("exporting", self._done, self._n_bytes)

    def _copy(self, file: Path) -> Path:
        """Copy a file: a link would let whoever writes into the export change the harvest."""
        copy = self._staging / file.name
        with file.open("rb") as content, HashedFile(copy) as written:
            while chunk := content.read(_CHUNK):
                written.write(chunk)
                self._advance(len(chunk))
        self._source.check(file, written.digest.sha256)
        return copy

    def _write_database(
        self, counts: CorrelationStorage, scores: Iterable[ScoreRow]
    ) -> tuple[int, int]:
        """Write `harvest.db`; returns the numbers of components and of scores."""
        path = self._staging / _DATABASE
        try:
            with closing(sqlite3.connect(path)) as database:
                # The whole folder is discarded after an error.
                database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
                database.executescript(_SCHEMA)
                database.executemany("INSERT INTO config VALUES (?, ?)", self._config(counts))
                database.executemany(
                    "INSERT INTO components VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self._rows(counts)
                )
                database.executemany("INSERT INTO scores VALUES (?, ?, ?, ?)", scores)
                database.execute(
                    "DELETE FROM scores WHERE component_key NOT IN "
                    "(SELECT component_key FROM components)"
                )
                database.commit()
                (n_components,) = database.execute("SELECT count(*) FROM components").fetchone()
                (n_scores,) = database.execute("SELECT count(*) FROM scores").fetchone()
        except sqlite3.Error as error:
            raise HarvestError(f"{_DATABASE} cannot be written: {reason_of(error)}.") from error
        return n_components, n_scores

    def _config(self, counts: CorrelationStorage) -> Iterator[tuple[str, str]]:
        plan = self._source.plan
        n_examples = plan.activation_examples_per_component
        values = {
            "method_config": {
                "type": "SPDHarvestConfig",
                "wandb_path": plan.run,
                "activation_threshold": plan.ci_threshold,
            },
            "n_batches": -(-counts.count_total // (plan.batch_size * plan.context_length)),
            "batch_size": plan.batch_size,
            "activation_examples_per_component": n_examples,
            "activation_context_tokens_per_side": plan.activation_context_tokens_per_side,
            "pmi_token_top_k": plan.pmi_token_top_k,
            # The sample has no limit within a batch: all of it may be from one.
            "max_examples_per_batch_per_component": n_examples,
        }
        for key, value in values.items():
            yield key, orjson.dumps(value).decode()

    def _rows(self, counts: CorrelationStorage) -> Iterator[tuple[Any, ...]]:
        firings = dict(zip(counts.component_keys, counts.count_i.tolist(), strict=True))
        threshold = _between_float32(self._source.plan.ci_threshold)
        file, digest = self._source.paths.components, hashlib.sha256()
        with file.open("rb", buffering=1 << 20) as content:
            for line in lines_of(file, content):
                digest.update(line)
                component = parse_component(file, line)
                n = firings.get(component.component_key, 0)
                if not 0 < n <= counts.count_total:
                    raise HarvestError(
                        f"{file} has the component {component.component_key[:200]!r}, which did "
                        f"not fire by {self._source.paths.component_correlations.name}; run "
                        f"harvest-assets verify {self._source.paths.root.name}."
                    )
                yield _row(component, n / counts.count_total, threshold)
                self._advance(len(line))
        self._source.check(file, digest.hexdigest())


def _row(component: ComponentData, firing_density: float, threshold: float) -> tuple[Any, ...]:
    """A row of `components`.

    The mean activation is left out: no harvest of ours sums activations over all tokens.
    """
    examples = [_example(it, threshold) for it in component.activation_examples]
    return (
        component.component_key,
        component.layer,
        component.component_idx,
        firing_density,
        orjson.dumps({"causal_importance": component.mean_ci}),
        orjson.dumps(examples),
        orjson.dumps(_pmi(component.input_token_pmi)),
        orjson.dumps(_pmi(component.output_token_pmi)),
    )


def _example(example: ActivationExample, threshold: float) -> dict[str, Any]:
    """An example without the places outside its row."""
    ids, ci, acts = example.token_ids, example.ci_values, example.component_acts
    if ids and (ids[0] < 0 or ids[-1] < 0):
        inner = _inside(ids)
        ids, ci, acts = ids[inner], ci[inner], acts[inner]
    return {
        "token_ids": ids,
        "firings": [value > threshold for value in ci],
        "activations": {"causal_importance": ci, "component_activation": acts},
    }


def _inside(token_ids: list[int]) -> slice:
    """The places from the first token to the last, without the padding around them."""
    places = [place for place, token in enumerate(token_ids) if token >= 0]
    return slice(places[0], places[-1] + 1) if places else slice(0)


def _between_float32(threshold: float) -> float:
    """A number between a threshold in float32 and the next float32.

    Firings were counted in float32; digits that restore a float32 may lie beside it.
    """
    below = np.float32(threshold)
    return (float(below) + float(np.nextafter(below, np.float32(np.inf)))) / 2


def _pmi(tokens: ComponentTokenPMI) -> dict[str, list[tuple[int, float]]]:
    return {"top": tokens.top, "bottom": tokens.bottom}
