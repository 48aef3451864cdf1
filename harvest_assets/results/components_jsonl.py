"""`components.jsonl` and what stands beside it: written in a stream, found by key.

A line is one component. `component_index.parquet` tells at which byte each line begins; files of
older writers have no index and are scanned, a line at a time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import fsync_path
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.untrusted import read_bytes, text_of
from harvest_assets.results.component_tables import (
    ComponentIndex,
    ComponentTables,
    highest_rows,
    position_rows,
)
from harvest_assets.schemas import (
    ActivationExample,
    ComponentData,
    ComponentSummary,
    ComponentTokenPMI,
)

_PREFIX = b'{"component_key": '
_SCANNED_TOKENS = 5
# A hundred thousand examples.
_LONGEST_LINE = 256 << 20
_LAST_TOKEN = (1 << 31) - 1
_MOST_SUMMARY_BYTES = 1 << 30


@dataclass(frozen=True)
class ExampleBlock:
    """m examples of one component, windows of W tokens."""

    token_ids: NDArray[np.int32]  # [m, W], -1 outside the sequence
    ci_values: NDArray[np.float32]  # [m, W]
    component_acts: NDArray[np.float32]  # [m, W]
    rows: NDArray[np.int64]  # [m], row of the harvest
    positions: NDArray[np.int32]  # [m], position of the firing in the row


@dataclass(frozen=True)
class HarvestedComponent:
    """All that is written of one component.

    Args:
        layer: path of the decomposed module.
        component_idx: index in the layer.
        firing_count: 0 for a component that gets no line.
        mean_ci: over all positions.
        ci_histogram: int64 [64], sums to `firing_count`.
        examples: the uniform sample, in order of priority.
        highest_ci: the examples of highest CI, highest first.
        input_token_pmi: tokens on which it fires.
        output_token_pmi: tokens that the model then predicts.
        telling: how telling it is; see `analysis`.
        telling_input_tokens: the tokens read of which a firing tells most; see `pmi.telling`.
        telling_output_tokens: the same of the tokens that are predicted.
    """

    layer: str
    component_idx: int
    firing_count: int
    mean_ci: float
    ci_histogram: NDArray[np.int64]
    examples: ExampleBlock
    highest_ci: ExampleBlock
    input_token_pmi: ComponentTokenPMI
    output_token_pmi: ComponentTokenPMI
    telling: float = 0.0
    telling_input_tokens: Sequence[int] = ()
    telling_output_tokens: Sequence[int] = ()

    @property
    def key(self) -> str:
        """`layer:index`."""
        return f"{self.layer}:{self.component_idx}"


def write_contexts(
    paths: HarvestLayout, components: Iterable[HarvestedComponent], config: dict[str, Any]
) -> None:
    """Write the folder `activation_contexts` of a harvest, all files complete and on the disk.

    Args:
        paths: of the folder to fill; publishing is the caller's.
        components: all of them in flat order, those that never fired too.
        config: goes into `config.json`.

    Raises:
        HarvestError: a value is no finite number.
    """
    paths.activation_contexts.mkdir(parents=True, exist_ok=True)
    summary: dict[str, dict[str, Any]] = {}
    offset, digest = 0, hashlib.sha256()
    with (
        paths.components.open("wb", buffering=1 << 20) as lines,
        ComponentTables(paths) as tables,
    ):
        for component in components:
            _check_finite(component)
            line = b""
            if component.firing_count:
                line = _line(component)
                lines.write(line)
                digest.update(line)
                summary[component.key] = {
                    "layer": component.layer,
                    "component_idx": component.component_idx,
                    "idx": component.component_idx,
                    "mean_ci": component.mean_ci,
                }
            tables.add(component, offset, len(line))
            offset += len(line)
        tables.name_lines(offset, digest.hexdigest())
    for path, value in ((paths.summary, summary), (paths.config, config)):
        path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for path in paths.activation_contexts.iterdir():
        fsync_path(path)


def _check_finite(component: HarvestedComponent) -> None:
    """JSON has no word for NaN and infinity; orjson would write null."""
    scores = [
        score
        for lists in (component.input_token_pmi, component.output_token_pmi)
        for _, score in (*lists.top, *lists.bottom)
    ]
    windows = [
        values
        for block in (component.examples, component.highest_ci)
        for values in (block.ci_values, block.component_acts)
    ]
    if not math.isfinite(component.mean_ci):
        what = "a mean CI"
    elif not np.isfinite(scores).all():
        what = "a PMI"
    elif not all(np.isfinite(values).all() for values in windows):
        what = "an example with a value"
    else:
        return
    raise HarvestError(f"{component.key} has {what} that is no finite number.")


def _line(component: HarvestedComponent) -> bytes:
    examples = component.examples
    # orjson writes float32 by its shortest digits, from rows that lie together.
    windows = (
        np.ascontiguousarray(examples.token_ids, dtype=np.int32),
        np.ascontiguousarray(examples.ci_values, dtype=np.float32),
        np.ascontiguousarray(examples.component_acts, dtype=np.float32),
    )
    rest = orjson.dumps(
        {
            "layer": component.layer,
            "component_idx": component.component_idx,
            "mean_ci": component.mean_ci,
            "activation_examples": [
                {"token_ids": tokens, "ci_values": ci, "component_acts": acts}
                for tokens, ci, acts in zip(*windows, strict=True)
            ],
            "input_token_pmi": _lists(component.input_token_pmi),
            "output_token_pmi": _lists(component.output_token_pmi),
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
    # Readers find a component by the first bytes of its line, a blank behind the colon.
    return b"".join((_PREFIX, orjson.dumps(component.key), b", ", rest[1:], b"\n"))


def _lists(pmi: ComponentTokenPMI) -> dict[str, list[tuple[int, float]]]:
    return {"top": pmi.top, "bottom": pmi.bottom}


def read_component(
    paths: HarvestLayout, component_key: str, index: ComponentIndex | None = None
) -> ComponentData | None:
    """One component, without reading the others; None if it has no line.

    Args:
        paths: of the harvest.
        component_key: of the component.
        index: of the lines, where it has been opened before.

    Raises:
        HarvestError: the file is damaged.
    """
    index = index or ComponentIndex.open(paths)
    line = None
    if index is not None:
        place = index.line_place(component_key)
        if place is None:
            return None
        line = _line_at(paths, place, component_key)
    # An index that does not fit, of a file changed by hand, is not believed.
    line = line or _line_by_scan(paths, component_key)
    return None if line is None else parse_component(paths.components, line)


def read_summary(paths: HarvestLayout) -> dict[str, ComponentSummary]:
    """The short entries of all components that fired.

    Raises:
        HarvestError: the file is damaged.
    """
    try:
        entries = orjson.loads(read_bytes(paths.summary, _MOST_SUMMARY_BYTES))
        return {
            key: ComponentSummary(
                layer=text_of(entry["layer"]),
                component_idx=_index(
                    entry["component_idx"] if "component_idx" in entry else entry["idx"]
                ),
                mean_ci=_finite(entry["mean_ci"]),
            )
            for key, entry in entries.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HarvestError(f"{paths.summary} is damaged: {reason_of(error)}.") from error


def scan_lines(
    paths: HarvestLayout,
) -> tuple[ComponentIndex, dict[str, tuple[list[int], list[int]]]]:
    """Read all lines once, where no index tells where they begin.

    Returns:
        The index, and of each component the input and output tokens of highest PMI.

    Raises:
        HarvestError: the file is damaged.
    """
    places, tokens, offset = [], {}, 0
    try:
        with paths.components.open("rb", buffering=1 << 20) as file:
            for line in lines_of(paths.components, file):
                value = _light(paths.components, line)
                key = text_of(value["component_key"])
                places.append((key, offset, len(line)))
                reads, predicts = (
                    [int(token) for token, _ in value[name]["top"][:_SCANNED_TOKENS]]
                    for name in ("input_token_pmi", "output_token_pmi")
                )
                tokens[key] = (reads, predicts)
                offset += len(line)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise HarvestError(f"{paths.components} cannot be read: {reason_of(error)}.") from error
    return ComponentIndex.of_lines(places), tokens


def _light(path: Path, line: bytes) -> dict[str, Any]:
    """A line without its examples, which are nearly all of it; whole where that does not work."""
    key_end, lists = line.find(b","), line.rfind(b'"input_token_pmi"')
    if line.startswith(_PREFIX) and key_end > 0 < lists:
        try:
            return orjson.loads(line[:key_end] + b"," + line[lists:])  # type: ignore[no-any-return]
        except ValueError:
            pass
    return _loads(path, line)  # type: ignore[no-any-return]


def example_places(paths: HarvestLayout, component: ComponentData) -> list[tuple[int, int] | None]:
    """Row and position of each example of a component; None where nothing beside the file tells."""
    rows = position_rows(paths, component.component_key)
    return places_of_rows(rows, len(component.activation_examples))


def places_of_rows(rows: list[dict[str, Any]] | None, n: int) -> list[tuple[int, int] | None]:
    """Row and position of each of n examples, from the rows of `example_positions`."""
    if rows is None or len(rows) != n:
        return [None] * n
    return [(row["row"], row["position"]) for row in rows]


def highest_ci_examples(
    paths: HarvestLayout, component_key: str
) -> list[tuple[ActivationExample, tuple[int, int] | None]] | None:
    """The firings of highest CI with row and position; None where they were not kept."""
    rows = highest_rows(paths, component_key)
    return None if rows is None else highest_of_rows(rows)


def highest_of_rows(
    rows: list[dict[str, Any]] | None,
) -> list[tuple[ActivationExample, tuple[int, int] | None]]:
    """The examples that rows of `highest_ci_examples` tell, each with row and position."""
    return [
        (
            ActivationExample(
                row["token_ids"], _shortest(row["ci_values"]), _shortest(row["component_acts"])
            ),
            (row["row"], row["position"]),
        )
        for row in rows or ()
    ]


def _shortest(values: list[float]) -> list[float]:
    """Float32 values as the lines tell them: 0.1, not 0.10000000149011612."""
    array = np.asarray(values, dtype=np.float32)
    return orjson.loads(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY))  # type: ignore[no-any-return]


def _starts_with_key(line: bytes, component_key: str) -> bool:
    return line.startswith(_PREFIX + orjson.dumps(component_key) + b",")


def _line_at(paths: HarvestLayout, place: tuple[int, int], component_key: str) -> bytes | None:
    """The line at an offset, if it is the component's."""
    offset, length = place
    with paths.components.open("rb") as file:
        if not 0 <= offset <= offset + length <= file.seek(0, os.SEEK_END) or length < 1:
            return None
        file.seek(offset)
        line = file.read(length)
    whole = line.find(b"\n") == length - 1
    return line if whole and _starts_with_key(line, component_key) else None


def _line_by_scan(paths: HarvestLayout, component_key: str) -> bytes | None:
    """The first line of the component; keys may stand in any order."""
    quoted = orjson.dumps(component_key)
    with paths.components.open("rb", buffering=1 << 20) as file:
        for line in lines_of(paths.components, file):
            if _starts_with_key(line, component_key):
                return line
            foreign = not line.startswith(_PREFIX) and quoted in line
            if foreign and _key_of(paths.components, line) == component_key:
                return line
    return None


def lines_of(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file, none longer than what one component can have.

    Raises:
        HarvestError: one is.
    """
    while line := file.readline(_LONGEST_LINE + 1):
        if len(line) > _LONGEST_LINE:
            raise HarvestError(
                f"{path} has a damaged line: it is longer than {_LONGEST_LINE:,} bytes."
            )
        yield line


def _key_of(path: Path, line: bytes) -> str | None:
    value = _loads(path, line)
    return value.get("component_key") if isinstance(value, dict) else None


def _loads(path: Path, line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except ValueError as error:
        raise HarvestError(f"{path} has a damaged line: {reason_of(error)}.") from error


def parse_component(path: Path, line: bytes) -> ComponentData:
    """The component of one line of a file.

    Raises:
        HarvestError: the line is damaged.
    """
    value = _loads(path, line)
    try:
        return ComponentData(
            component_key=text_of(value["component_key"]),
            layer=text_of(value["layer"]),
            component_idx=_index(value["component_idx"]),
            mean_ci=_finite(value["mean_ci"]),
            activation_examples=_examples(value["activation_examples"], line),
            input_token_pmi=_pmi(value["input_token_pmi"]),
            output_token_pmi=_pmi(value["output_token_pmi"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HarvestError(
            f"{path} has a line that is no component: {reason_of(error)}."
        ) from error


def _examples(values: list[dict[str, Any]], line: bytes) -> list[ActivationExample]:
    # Older writers kept no activations: zeros, as outside the sequence.
    examples = [
        ActivationExample(
            e["token_ids"], e["ci_values"], e.get("component_acts") or [0.0] * len(e["token_ids"])
        )
        for e in values
    ]
    _check_lists(examples)
    # A sum takes a truth value for a number.
    if b"true" in line or b"false" in line:
        _refuse_truth_values(examples)
    return examples


def _refuse_truth_values(examples: list[ActivationExample]) -> None:
    values = chain.from_iterable((*e.token_ids, *e.ci_values, *e.component_acts) for e in examples)
    if bool in {*map(type, values)}:
        raise TypeError("an example with a truth value instead of a number")


def _check_lists(examples: list[ActivationExample]) -> None:
    """See that examples have a token id, a CI and an activation at each place.

    Sums look at every value at the least cost, all examples at once: what is no number has none.
    """
    tokens = [e.token_ids for e in examples]
    values = [*(e.ci_values for e in examples), *(e.component_acts for e in examples)]
    if not {*map(type, tokens), *map(type, values)} <= {list}:
        raise TypeError("an example without lists")
    if [*map(len, tokens)] * 2 != [*map(len, values)]:
        raise ValueError("an example whose lists are of different lengths")
    ids = [*chain.from_iterable(tokens)]
    if ids and not (type(sum(ids)) is int and min(ids) >= -1 and max(ids) <= _LAST_TOKEN):
        raise ValueError("an example with what is no token id")
    if not math.isfinite(sum(chain.from_iterable(values))):
        raise ValueError("an example with what is no finite number")


def _pmi(value: dict[str, Any]) -> ComponentTokenPMI:
    return ComponentTokenPMI(
        *([(_index(token), _finite(x)) for token, x in value[end]] for end in ("top", "bottom"))
    )


def _index(value: Any) -> int:
    """An index or a token id."""
    if type(value) is not int or not 0 <= value <= _LAST_TOKEN:
        raise ValueError(f"{str(value)[:50]} is no index")
    return value


def _finite(value: Any) -> float:
    """A number, as it was written."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:50]} is no finite number")
    return value  # type: ignore[no-any-return]
