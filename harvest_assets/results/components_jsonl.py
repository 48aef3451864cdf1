"""Reads `components.jsonl`, whose lines are found by key, and `summary.json`.

A line is one component. `component_index.parquet` has the byte offset of each line; files of older
writers have no index and are scanned line by line.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

import orjson

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.untrusted import read_bytes, text_of
from harvest_assets.results.component_index import ComponentIndex
from harvest_assets.schemas import (
    ActivationExample,
    ComponentData,
    ComponentSummary,
    ComponentTokenPMI,
)

LINE_PREFIX = b'{"component_key": '
_SCANNED_TOKENS = 5
# Enough for a hundred thousand examples.
_MAX_LINE_BYTES = 256 << 20
_MAX_TOKEN = (1 << 31) - 1
_MAX_SUMMARY_BYTES = 1 << 30


def read_component(
    paths: HarvestLayout, component_key: str, index: ComponentIndex | None = None
) -> ComponentData | None:
    """One component, without reading the others; None if it has no line.

    Args:
        paths: of the harvest.
        component_key: of the component.
        index: of the lines, if it is already open.

    Raises:
        HarvestError: the file is damaged.
    """
    index = index or ComponentIndex.open(paths)
    line = None
    if index is not None:
        place = index.line_place(component_key)
        if place is None:
            return None
        line = line_at(paths, place, component_key)
    # The index of a file that was changed by hand does not fit.
    line = line or _line_by_scan(paths, component_key)
    return None if line is None else parse_component(paths.components, line)


def read_summary(paths: HarvestLayout) -> dict[str, ComponentSummary]:
    """The short entries of all components that fired.

    Raises:
        HarvestError: the file is damaged.
    """
    try:
        entries = orjson.loads(read_bytes(paths.summary, _MAX_SUMMARY_BYTES))
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
    """Read all lines once, where there is no index.

    Returns:
        An index, and for each component the input and output tokens of highest PMI.

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
    """A line without its examples, which are nearly all of it; the whole line if that fails."""
    key_end, lists = line.find(b","), line.rfind(b'"input_token_pmi"')
    if line.startswith(LINE_PREFIX) and key_end > 0 < lists:
        try:
            return orjson.loads(line[:key_end] + b"," + line[lists:])  # type: ignore[no-any-return]
        except ValueError:
            pass
    return _loads(path, line)  # type: ignore[no-any-return]


def _starts_with_key(line: bytes, component_key: str) -> bool:
    return line.startswith(LINE_PREFIX + orjson.dumps(component_key) + b",")


def line_at(paths: HarvestLayout, place: tuple[int, int], component_key: str) -> bytes | None:
    """The line at an offset; None unless it is the line of the component.

    Args:
        paths: of the harvest.
        place: offset and length.
        component_key: of the component.
    """
    offset, length = place
    with paths.components.open("rb") as file:
        if not 0 <= offset <= offset + length <= file.seek(0, os.SEEK_END):
            return None
        if not 0 < length <= _MAX_LINE_BYTES:
            return None
        file.seek(offset)
        line = file.read(length)
    whole = line.find(b"\n") == length - 1
    return line if whole and _starts_with_key(line, component_key) else None


def _line_by_scan(paths: HarvestLayout, component_key: str) -> bytes | None:
    """The first line of the component; its keys may be in any order."""
    quoted = orjson.dumps(component_key)
    with paths.components.open("rb", buffering=1 << 20) as file:
        for line in lines_of(paths.components, file):
            if _starts_with_key(line, component_key):
                return line
            foreign = not line.startswith(LINE_PREFIX) and quoted in line
            if foreign and _key_of(paths.components, line) == component_key:
                return line
    return None


def lines_of(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file.

    Raises:
        HarvestError: a line is longer than that of any component.
    """
    while line := file.readline(_MAX_LINE_BYTES + 1):
        if len(line) > _MAX_LINE_BYTES:
            raise HarvestError(
                f"{path} has a damaged line: it is longer than {_MAX_LINE_BYTES:,} bytes."
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
            input_token_pmi=pmi_of(value["input_token_pmi"]),
            output_token_pmi=pmi_of(value["output_token_pmi"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HarvestError(
            f"{path} has a line that is not a valid component: {reason_of(error)}."
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
    # A sum accepts booleans as numbers.
    if b"true" in line or b"false" in line:
        _refuse_booleans(examples)
    return examples


def _refuse_booleans(examples: list[ActivationExample]) -> None:
    values = chain.from_iterable((*e.token_ids, *e.ci_values, *e.component_acts) for e in examples)
    if bool in {*map(type, values)}:
        raise TypeError("an example has a boolean instead of a number")


def _check_lists(examples: list[ActivationExample]) -> None:
    """Check that examples have a token id, a CI and an activation at each place.

    The sum of all examples at once is the cheapest check of every value: it fails unless all are
    numbers.
    """
    tokens = [e.token_ids for e in examples]
    values = [*(e.ci_values for e in examples), *(e.component_acts for e in examples)]
    if not {*map(type, tokens), *map(type, values)} <= {list}:
        raise TypeError("an example has values that are not lists")
    if [*map(len, tokens)] * 2 != [*map(len, values)]:
        raise ValueError("an example has lists of different lengths")
    ids = [*chain.from_iterable(tokens)]
    if ids and not (type(sum(ids)) is int and min(ids) >= -1 and max(ids) <= _MAX_TOKEN):
        raise ValueError("an example has an invalid token id")
    if not math.isfinite(sum(chain.from_iterable(values))):
        raise ValueError("an example has a value that is not finite")


def pmi_of(value: dict[str, Any]) -> ComponentTokenPMI:
    """The two lists `top` and `bottom` of tokens with their PMI.

    Raises:
        ValueError, TypeError, KeyError: they are not valid.
    """
    return ComponentTokenPMI(
        *([(_index(token), _finite(x)) for token, x in value[end]] for end in ("top", "bottom"))
    )


def _index(value: Any) -> int:
    """An index or a token id."""
    if type(value) is not int or not 0 <= value <= _MAX_TOKEN:
        raise ValueError(f"{str(value)[:50]} is not an index")
    return value


def _finite(value: Any) -> float:
    """A number, as it was written."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:50]} is not a finite number")
    return value  # type: ignore[no-any-return]
