"""YAML files of other programs: read safely, checked against a schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from harvest_assets.errors import HarvestError

Schema = TypeVar("Schema", bound=pydantic.BaseModel)


def read_mapping(path: Path) -> dict[str, Any]:
    """The settings in a file.

    Raises:
        HarvestError: it is unreadable, no YAML, or no mapping.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        msg = f"{path} cannot be read as YAML: {str(error).splitlines()[0]}."
        raise HarvestError(msg) from error
    if not isinstance(raw, dict):
        msg = f"{path} does not hold a mapping of settings."
        raise HarvestError(msg)
    return raw


def validated(path: Path, raw: dict[str, Any], schema: type[Schema]) -> Schema:
    """The settings of a file as a schema has them.

    Raises:
        HarvestError: a key is missing or holds a wrong value.
    """
    try:
        return schema.model_validate(raw)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        where = f"{place}: " if place else ""
        msg = f"{path}: {where}{first['msg'].removeprefix('Value error, ')}."
        raise HarvestError(msg) from error
