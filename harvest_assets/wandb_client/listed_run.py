"""A run as W&B lists it; the server's answer is checked field by field."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from harvest_assets.files.sanitize import plain_text

_MAX_ID, _MAX_NAME = 128, 1000
# Servers send the zero time of their language for a time that is not set.
_FIRST_YEAR = 1970


@dataclass(frozen=True)
class ListedRun:
    """A run as W&B lists it.

    Args:
        run_id: last part of its name; empty if W&B sent none that can be used.
        display_name: what people call it.
        state: `finished`, `running`, `crashed`, ...
        tags: of the run.
        created_at: ISO time, as W&B sent it.
        heartbeat_at: ISO time when it was last alive, as W&B sent it; empty if there is none.
        problem: what is wrong with the run's fields, in a sentence; empty if nothing is. Its times
            have no meaning then.
    """

    run_id: str
    display_name: str = ""
    state: str = ""
    tags: tuple[str, ...] = ()
    created_at: str = ""
    heartbeat_at: str = ""
    problem: str = ""

    @property
    def created(self) -> datetime:
        """When it was created."""
        return parse_time(self.created_at)

    @property
    def alive_at(self) -> str:
        """`heartbeat_at`, or `created_at` where there is no heartbeat."""
        return self.heartbeat_at or self.created_at

    @property
    def heartbeat(self) -> datetime:
        """When it was last alive."""
        return parse_time(self.alive_at)


def parse_time(text: str) -> datetime:
    """An ISO time with any precision; without a zone it is UTC.

    Raises:
        ValueError: it is not an ISO time, or one that cannot be expressed in UTC.
    """
    time = datetime.fromisoformat(text.strip().upper())
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r} is out of range") from error


def listed_run(node: Any) -> ListedRun:
    """The run in one entry of W&B's answer, whatever the entry holds."""
    fields = node if isinstance(node, dict) else {}
    run_id, name = fields.get("name"), fields.get("displayName")
    usable = isinstance(run_id, str) and 0 < len(run_id) <= _MAX_ID
    identifier = str(run_id) if usable else ""
    try:
        _require(usable, "name", run_id)
        return ListedRun(
            run_id=identifier,
            display_name=name[:_MAX_NAME] if isinstance(name, str) else "",
            state=_text(fields, "state"),
            tags=_tags(fields.get("tags")),
            created_at=_created_at(fields),
            heartbeat_at=_heartbeat_at(fields),
        )
    except ValueError as error:
        return ListedRun(identifier, problem=str(error))


def _require(condition: bool, field: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"{field} is {plain_text(reprlib.repr(value))} in W&B's answer.")


def _text(fields: dict[str, Any], field: str) -> str:
    value = fields.get(field)
    _require(isinstance(value, str), field, value)
    return str(value)


def _tags(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    sound = isinstance(value, list) and all(isinstance(tag, str) for tag in value)
    _require(sound, "tags", value)
    return tuple(value)


def _created_at(fields: dict[str, Any]) -> str:
    text = _text(fields, "createdAt")
    _require((_year(text) or 0) >= _FIRST_YEAR, "createdAt", text)
    return text


def _heartbeat_at(fields: dict[str, Any]) -> str:
    if fields.get("heartbeatAt") in (None, ""):
        return ""
    text = _text(fields, "heartbeatAt")
    year = _year(text)
    _require(year is not None, "heartbeatAt", text)
    return text if (year or 0) >= _FIRST_YEAR else ""


def _year(text: str) -> int | None:
    try:
        return parse_time(text).year
    except ValueError:
        return None
