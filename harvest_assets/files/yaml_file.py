"""YAML files of other programs: read safely, checked against a schema."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import pydantic
import yaml

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.untrusted import read_bytes, twice

Schema = TypeVar("Schema", bound=pydantic.BaseModel)

# The config of a run has some kilobytes.
_MAX_BYTES = 256 << 10
_MAX_NODES = 100_000
_DATE = "tag:yaml.org,2002:timestamp"
_TEXT = "tag:yaml.org,2002:str"
_MAX_INTEGER_DIGITS = 40


class _Loader(yaml.SafeLoader):
    """Texts, numbers, lists and mappings; a date stays the text that it was written as."""

    def get_single_node(self) -> yaml.Node | None:
        """The tree of the file, refused if it is too large with its aliases written out."""
        node = super().get_single_node()
        if node is not None and _size(node, {}) > _MAX_NODES:
            raise yaml.YAMLError(
                f"it has more than {_MAX_NODES:,} entries, its aliases written out"
            )
        return node


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Entries of a tree; aliases count as often as they occur."""
    if id(node) in known:
        if known[id(node)] < 0:
            raise yaml.YAMLError("it has an entry that holds itself")
        return known[id(node)]
    known[id(node)] = -1
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        below = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    else:
        _check_scalar(node)
        below = []
    known[id(node)] = 1 + sum(_size(part, known) for part in below)
    return known[id(node)]


def _check_keys(node: yaml.MappingNode) -> None:
    keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    if len(set(keys)) < len(keys):
        raise yaml.YAMLError(f"it has the key {twice(keys)[:100]!r} twice")


def _check_scalar(node: yaml.Node) -> None:
    if node.tag == _DATE:
        node.tag = _TEXT
    if node.tag.endswith(":int") and len(node.value) > _MAX_INTEGER_DIGITS:
        raise yaml.YAMLError(f"the number {node.value[:30]} is out of range")


def read_mapping(path: Path) -> dict[str, Any]:
    """The settings in a file.

    Raises:
        HarvestError: it is unreadable, too long, not YAML, or not a mapping of names.
    """
    try:
        raw = yaml.load(read_bytes(path, _MAX_BYTES).decode(), _Loader)  # noqa: S506 - a safe one
    except RecursionError as error:
        raise HarvestError(f"{path} cannot be read as YAML: it is nested too deeply.") from error
    except Exception as error:  # the constructors of wrong values raise what they like
        raise HarvestError(f"{path} cannot be read as YAML: {reason_of(error)}.") from error
    if not isinstance(raw, dict):
        raise HarvestError(f"{path} does not hold a mapping of settings.")
    return {key: value for key, value in raw.items() if isinstance(key, str)}


def validated(
    path: Path,
    raw: dict[str, Any],
    schema: type[Schema],
    names: Mapping[str, str] = MappingProxyType({}),
) -> Schema:
    """The settings of a file as a schema has them.

    Args:
        path: of the file, for messages.
        raw: its settings.
        schema: what they must be.
        names: what the file calls settings that the schema calls otherwise, both with dots.

    Raises:
        HarvestError: a key is missing or holds a wrong value.
    """
    try:
        return schema.model_validate(raw)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = _renamed(".".join(str(part) for part in first["loc"]), names)
        where = f"{place}: " if place else ""
        raise HarvestError(
            f"{path}: {where}{first['msg'].removeprefix('Value error, ')}."
        ) from error


def _renamed(place: str, names: Mapping[str, str]) -> str:
    """A place in the schema as the file calls it, by the longest name that it begins with."""
    parts = place.split(".")
    for n in range(len(parts), 0, -1):
        name = names.get(".".join(parts[:n]))
        if name is not None:
            return ".".join([name, *parts[n:]])
    return place
