"""Builds the index of the contexts that a harvest kept.

1. The windows of every list are read: the uniform sample and the firings of highest value, of each
   list of a component the first `k`. The sample is in random order, so its first `k` are a sample.
2. A token of a window has a place, its row and position. Windows that overlap are joined: each
   place is stored once, whatever the number of components that kept it. Adjacent places form a
   fragment of a row. A window whose row was not recorded is a fragment by itself.
3. The text of all fragments is written twice, as it is and in lower case, with the same offsets,
   and a byte between two fragments that no text contains.
4. A firing is a component at a place where its causal importance exceeds the harvest's threshold.

`k` is chosen such that all windows together have at most `MAX_TOKENS` tokens. So building takes at
most about 1.2 GB of memory, 600 MB of disk (long tokens aside) and, with 40,000 components, 2
minutes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.results.component_index import ComponentIndex, ComponentRows
from harvest_assets.results.component_tables import HIGHEST_SCHEMA, POSITIONS_SCHEMA
from harvest_assets.results.components_jsonl import lines_of, parse_component
from harvest_assets.viewer.contexts.texts import SEPARATOR, folded

if TYPE_CHECKING:
    from harvest_assets.viewer.harvest import Harvest

MAX_TOKENS = 24_000_000
_TEXTS_AT_ONCE = 1 << 20  # tokens
_UNKNOWN = -1
_REST = (
    b'}], "input_token_pmi": {"top": [], "bottom": []}, '
    b'"output_token_pmi": {"top": [], "bottom": []}}'
)
_MAX_NUMBER_BYTES = 14


@dataclass(frozen=True)
class Windows:
    """Windows of tokens; T their tokens in total.

    Args:
        component: int32 [W], flat index.
        row: int64 [W], `_UNKNOWN` where not recorded.
        position: int64 [W], of the firing token.
        length: int64 [W].
        tokens: int32 [T], -1 outside the row.
        ci: float32 [T].
    """

    component: NDArray[np.int32]
    row: NDArray[np.int64]
    position: NDArray[np.int64]
    length: NDArray[np.int64]
    tokens: NDArray[np.int32]
    ci: NDArray[np.float32]


def build(harvest: Harvest, folder: Path, progress: Callable[[float], None]) -> None:
    """Write the index of a finished harvest into an empty folder; see `search.ContextIndex`.

    Args:
        harvest: a finished one.
        folder: to fill.
        progress: called with the share that is done, from 0 to 1.

    Raises:
        HarvestError: a file of the harvest is damaged.
    """
    paths = HarvestLayout.of(harvest.name)
    k = windows_per_list(harvest)
    read = list(_read(paths, harvest, k, lambda share: progress(0.7 * share)))
    if not read:
        raise HarvestError(f"{harvest.name} has no contexts to search: no component fired.")
    windows = _concatenated(read)
    del read
    places, firing = _placed(windows, float(harvest.config.get("ci_threshold") or 0.0))
    progress(0.8)
    for name, values in {**places, **firing}.items():
        np.save(folder / f"{name}.npy", values)
    n_bytes = _write_texts(harvest, folder, places, lambda share: progress(0.8 + 0.2 * share))
    about = {"per_list": k, "windows": len(windows.row), "bytes": n_bytes}
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")


def windows_per_list(harvest: Harvest) -> int:
    """How many windows of each list of a component are indexed, at least 1."""
    alive = int((harvest.firing_counts > 0).sum())
    side = harvest.config.get("activation_context_tokens_per_side")
    length = 2 * side + 1 if isinstance(side, int) and 0 < side < MAX_TOKENS else 21
    return max(1, MAX_TOKENS // max(1, alive * length * len(harvest.example_orders)))


def _read(
    paths: HarvestLayout, harvest: Harvest, k: int, progress: Callable[[float], None]
) -> Iterator[Windows]:
    """The windows of all lists, in parts."""
    index = ComponentIndex.open(paths)
    places = _positions(ComponentRows.open(paths.example_positions, POSITIONS_SCHEMA, index), k)
    size, done = max(1, paths.components.stat().st_size), 0
    for line in _heads(paths, k):
        done += line.n_bytes
        progress(done / size)
        component = parse_component(paths.components, line.text)
        place = harvest.places.get(component.component_key)
        examples = component.activation_examples[:k]
        if place is None or not examples:
            continue
        n = len(examples)
        rows, positions = places.get(place, (np.zeros(0), np.zeros(0)))
        if len(rows) < n:
            rows = positions = np.full(n, _UNKNOWN)
        yield Windows(
            np.full(n, place, dtype=np.int32),
            rows[:n].astype(np.int64),
            positions[:n].astype(np.int64),
            np.array([len(e.token_ids) for e in examples]),
            np.array([*chain.from_iterable(e.token_ids for e in examples)], dtype=np.int32),
            np.array([*chain.from_iterable(e.ci_values for e in examples)], dtype=np.float32),
        )
    for path in (paths.highest_ci_examples, paths.highest_activation_examples):
        table = ComponentRows.open(path, HIGHEST_SCHEMA, index)
        yield from () if table is None else _highest(table, k)


@dataclass(frozen=True)
class _Head:
    text: bytes
    n_bytes: int  # of the whole line


def _heads(paths: HarvestLayout, k: int) -> Iterator[_Head]:
    """The lines of `components.jsonl`, each cut after about `k` examples where it is longer."""
    with paths.components.open("rb", buffering=1 << 20) as file:
        for line in lines_of(paths.components, file):
            yield _Head(_cut(line, k), len(line))


def _cut(line: bytes, k: int) -> bytes:
    """A line of ours with at least its first `k` examples; the whole line of another writer."""
    first = line.find(b'"activation_examples":[{')
    end_of_first = line.find(b"},{", first)
    if first < 0 or end_of_first < 0:
        return line
    n_numbers = line.count(b",", first, end_of_first)
    enough = end_of_first + k * (n_numbers + 3) * _MAX_NUMBER_BYTES
    rest = line.find(b'"input_token_pmi"', first)
    return line if rest < enough else line[: line.rfind(b"},{", 0, enough)] + _REST


def _positions(table: ComponentRows | None, k: int) -> dict[int, tuple[NDArray[Any], NDArray[Any]]]:
    """Rows and positions of the first `k` sampled examples, by component; empty if unknown."""
    if table is None:
        return {}
    parts = []
    for batch in table.groups():
        columns = [batch[name].to_numpy() for name in ("flat_index", "rank", "row", "position")]
        few = columns[1] < k
        parts.append([column[few] for column in columns])
    if not parts:
        return {}
    component, rank, row, position = (np.concatenate(c) for c in zip(*parts, strict=True))
    order = np.lexsort((rank, component))
    found, starts = np.unique(component[order], return_index=True)
    rows, positions = (np.split(c[order], starts[1:]) for c in (row, position))
    return {int(c): (r, p) for c, r, p in zip(found.tolist(), rows, positions, strict=True)}


def _highest(table: ComponentRows, k: int) -> Iterator[Windows]:
    import pyarrow.compute as pc

    for batch in table.groups():
        few = batch.filter(pc.less(batch["rank"], k)).combine_chunks()
        if len(few) == 0:
            continue
        component, row, position = (
            few[name].to_numpy() for name in ("flat_index", "row", "position")
        )
        lengths, tokens, ci = (
            _flat(column)
            for column in (
                pc.list_value_length(few["token_ids"]),
                pc.list_flatten(few["token_ids"]),
                pc.list_flatten(few["ci_values"]),
            )
        )
        if len(tokens) != len(ci):
            raise HarvestError("A table of examples is damaged: its lists differ in length.")
        yield Windows(component, row, position.astype(np.int64), lengths, tokens, ci)


def _flat(column: Any) -> NDArray[Any]:
    values: NDArray[Any] = column.to_numpy()
    return values


def _concatenated(parts: list[Windows]) -> Windows:
    def column(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])

    names = ("component", "row", "position", "length", "tokens", "ci")
    return Windows(*map(column, names))


def _placed(
    windows: Windows, threshold: float
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Places in rising order of row and position with their tokens, and firings by place."""
    n = len(windows.row)
    length = windows.length.astype(np.int64)
    ends = np.cumsum(length)
    offset = np.arange(len(windows.tokens)) - np.repeat(ends - length + length // 2, length)
    unknown = windows.row < 0
    first_unknown = int(windows.row.max(initial=0)) + 1
    row = np.where(unknown, first_unknown + np.arange(n), windows.row)
    position = np.where(unknown, 0, windows.position)
    low, high = int((position - length).min()), int((position + length).max())
    span = high - low + 2  # adjacent keys are adjacent positions of one row
    if (int(row.max()) + 1) * span >= 1 << 62:
        raise HarvestError("The table of example positions is damaged: a row or position is huge.")
    keys = np.repeat(row * span + position - low, length) + offset
    inside = windows.tokens >= 0
    fires = inside & (windows.ci > threshold)
    firing_keys, firing_ci = keys[fires], windows.ci[fires]
    firing_component = np.repeat(windows.component, length)[fires]
    unique, first = np.unique(keys[inside], return_index=True)
    tokens = windows.tokens[inside][first]
    begins = np.flatnonzero(np.diff(unique, prepend=-2) != 1)
    rows, positions = unique[begins] // span, unique[begins] % span + low
    known = rows < first_unknown
    fragments = [begins, np.where(known, rows, -1), np.where(known, positions, -1)]
    place = np.searchsorted(unique, firing_keys)
    n_components = int(windows.component.max()) + 1
    pairs, one = np.unique(place * n_components + firing_component, return_index=True)
    places = {"tokens": tokens, "fragments": np.stack(fragments)}
    return places, {
        "firing_place": pairs // n_components,
        "firing_component": (pairs % n_components).astype(np.int32),
        "firing_ci": firing_ci[one],
    }


def _write_texts(
    harvest: Harvest,
    folder: Path,
    places: dict[str, NDArray[Any]],
    progress: Callable[[float], None],
) -> int:
    """The text of all tokens, as it is and in lower case, and where each token begins in it."""
    tokens, begins = places["tokens"], places["fragments"][0]
    ids, which = np.unique(tokens, return_inverse=True)
    known = [harvest.vocabulary.utf8(int(i)) for i in ids]
    lower = [folded(text) for text in known]
    sizes = np.array([len(text) for text in known])[which]
    last = np.zeros(len(tokens), dtype=np.int64)
    last[np.append(begins[1:], len(tokens)) - 1] = 1
    starts = np.append(0, np.cumsum(sizes + last))
    dtype = np.uint32 if starts[-1] < 1 << 32 else np.int64
    np.save(folder / "starts.npy", starts.astype(dtype))
    # In one table, the texts with a separator after the texts without.
    which = which + len(ids) * last
    for name, texts in (("text", known), ("folded", lower)):
        table = [*texts, *(text + SEPARATOR for text in texts)]
        with (folder / f"{name}.bin").open("wb") as file:
            for part in range(0, len(which), _TEXTS_AT_ONCE):
                chosen = which[part : part + _TEXTS_AT_ONCE].tolist()
                file.write(b"".join(map(table.__getitem__, chosen)))
                progress((part / len(which) + (name == "folded")) / 2)
    return int(starts[-1])
