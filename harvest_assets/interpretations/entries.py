"""What can be kept about a component: a label, a score of one, an edit by a person.

An entry is checked when it is made, by whoever makes it: texts are bounded, and characters that
cannot be printed are written out, but for those that join letters or keep them apart.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from harvest_assets.errors import HarvestError
from harvest_assets.files.sanitize import plain_text

Source = Literal["model", "person", "import"]
EditedField = Literal["label", "note", "starred", "tags"]

MAX_LABEL = 300  # characters, as the other bounds of texts
MAX_REASON = 2_000
MAX_NOTE = 10_000
MAX_NAME = 300  # of a component or an author
MAX_TAG = 50
MAX_TAGS = 20
# Persian and Indian scripts need them within words, and joined emoji; at an end they do nothing.
JOINERS = "\u200c\u200d"
_AT_ENDS = JOINERS + " \t\n\r\v\f"
_METHOD = re.compile(r"[a-z][a-z0-9_]{0,39}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_TRIALS = (1 << 31) - 1


def now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)


def sha256_of_text(text: str) -> str:
    """SHA-256 of a text in UTF-8, in hexadecimal digits: of a prompt, or of a label."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Label:
    """What a component means, in a few words.

    Args:
        component_key: of the component.
        label: on one line; a person's empty label takes an earlier one back.
        confidence: from 0 to 1; None if not stated.
        reason: of the label; may be empty.
        source: who decided on it; `import` if that is not known.
        author: name of the model, the person or the file.
        prompt_sha256: of the prompt that a model answered.
        written_at: when.

    Raises:
        HarvestError: a value is out of bounds.
    """

    component_key: str
    label: str
    confidence: float | None
    reason: str
    source: Source
    author: str
    prompt_sha256: str | None = None
    written_at: datetime = dataclasses.field(default_factory=now)

    def __post_init__(self) -> None:
        _check_common(self)
        _set(self, "label", _line(self.label, "The label", MAX_LABEL))
        _set(self, "reason", _text(self.reason, "The reason", MAX_REASON))
        if self.source not in ("model", "person", "import"):
            raise HarvestError(
                f"The source of a label is {str(self.source)[:50]!r}; "
                "expected 'model', 'person' or 'import'."
            )
        if not self.label and self.source != "person":
            raise HarvestError(f"The label of {self.component_key} is empty.")
        if self.confidence is not None:
            _check_number("The confidence", self.confidence, 0.0, 1.0)
        _check_sha256("prompt_sha256", self.prompt_sha256)


@dataclass(frozen=True)
class Score:
    """How well a component, or a label of it, did in trials.

    Args:
        component_key: of the component.
        method: lower case letters, digits and `_`: `intruder`, `detection`.
        score: the higher the better.
        low: lower end of its 95 % interval; None if not known.
        high: upper end.
        chance: the score of guessing; None if not known.
        n_trials: trials that count; None if not known.
        n_failed: trials without a usable answer.
        author: name of the model or the program.
        prompt_sha256: of the prompts.
        label_sha256: `sha256_of_text` of the label that was scored; None if none was.
        written_at: when.

    Raises:
        HarvestError: a value is out of bounds.
    """

    component_key: str
    method: str
    score: float
    low: float | None
    high: float | None
    chance: float | None
    n_trials: int | None
    n_failed: int
    author: str
    prompt_sha256: str | None = None
    label_sha256: str | None = None
    written_at: datetime = dataclasses.field(default_factory=now)

    def __post_init__(self) -> None:
        _check_common(self)
        if not _METHOD.fullmatch(self.method):
            raise HarvestError(
                f"{self.method[:50]!r} is not a valid method of scoring; expected at most 40 lower "
                "case letters, digits and '_', such as 'intruder'."
            )
        for name in ("score", "low", "high", "chance"):
            value = getattr(self, name)
            if value is not None or name == "score":
                _check_number(f"{name} of {self.component_key}", value, -math.inf, math.inf)
        for name in ("n_trials", "n_failed"):
            value = getattr(self, name)
            if value is not None or name == "n_failed":
                _check_count(f"{name} of {self.component_key}", value)
        _check_sha256("prompt_sha256", self.prompt_sha256)
        _check_sha256("label_sha256", self.label_sha256)


@dataclass(frozen=True)
class Edit:
    """What a person changed.

    Args:
        component_key: of the component.
        field: what was changed.
        value: a text for `label` and `note` (empty: removed), whether for `starred`, the names for
            `tags`, each once.
        author: name of the person.
        written_at: when.

    Raises:
        HarvestError: a value is out of bounds, or not of the field's type.
    """

    component_key: str
    field: EditedField
    value: str | bool | tuple[str, ...]
    author: str
    written_at: datetime = dataclasses.field(default_factory=now)

    def __post_init__(self) -> None:
        _check_common(self)
        if self.field == "tags" and isinstance(self.value, (tuple, list)):
            tags = dict.fromkeys(_line(tag, "A tag", MAX_TAG) for tag in self.value)
            _set(self, "value", tuple(tag for tag in tags if tag))
            if any("," in tag for tag in tags):
                raise HarvestError(f"A tag of {self.component_key} has a comma, which ends a tag.")
            if len(self.value) > MAX_TAGS:
                raise HarvestError(
                    f"{len(self.value)} tags are given; at most {MAX_TAGS} are kept."
                )
        elif self.field == "label" and isinstance(self.value, str):
            _set(self, "value", _line(self.value, "The label", MAX_LABEL))
        elif self.field == "note" and isinstance(self.value, str):
            _set(self, "value", _text(self.value, "The note", MAX_NOTE))
        elif self.field != "starred" or not isinstance(self.value, bool):
            raise HarvestError(
                f"{str(self.value)[:50]!r} is not a valid value of {str(self.field)[:50]!r}; "
                "expected a text for 'label' and 'note', true or false for 'starred', texts for "
                "'tags'."
            )


Entry = Label | Score | Edit


def field_of_person(entry: Entry) -> EditedField | None:
    """The field that a person gives a value with an entry; None if no person wrote it."""
    if isinstance(entry, Edit):
        return entry.field
    return "label" if isinstance(entry, Label) and entry.source == "person" else None


def _check_common(entry: Entry) -> None:
    key = entry.component_key
    if not isinstance(key, str) or not key.isprintable() or not 0 < len(key) <= MAX_NAME:
        raise HarvestError(f"{str(key)[:100]!r} is not a valid component key.")
    _set(entry, "author", _line(entry.author, "The author", MAX_NAME, ""))
    if entry.written_at.tzinfo is None:
        raise HarvestError(f"The time of an entry of {key} has no time zone.")
    _set(entry, "written_at", entry.written_at.astimezone(UTC))


def _set(entry: Entry, name: str, value: object) -> None:
    """Set a field of a frozen entry while it is made."""
    object.__setattr__(entry, name, value)


def _line(text: str, what: str, limit: int, kept: str = JOINERS) -> str:
    """A text on one line, printable."""
    line = " ".join(text.split()).strip(_AT_ENDS)
    return _bounded(plain_text(line, kept), what, limit)


def _text(text: str, what: str, limit: int) -> str:
    """A printable text that may have several lines."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").expandtabs(4)
    return _bounded(plain_text(lines.strip().strip(_AT_ENDS), JOINERS), what, limit)


def _bounded(text: str, what: str, limit: int) -> str:
    if len(text) > limit:
        raise HarvestError(
            f"{what} {text[:30]!r}... has {len(text):,} characters; at most {limit:,} are kept."
        )
    return text


def _check_number(what: str, value: object, least: float, most: float) -> None:
    valid = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not valid or not math.isfinite(value) or not least <= value <= most:  # type: ignore[arg-type, operator]
        bounds = "" if math.isinf(most) else f" from {least:g} to {most:g}"
        raise HarvestError(f"{what} is {str(value)[:50]}; expected a number{bounds}.")


def _check_count(what: str, value: object) -> None:
    if type(value) is not int or not 0 <= value <= _MAX_TRIALS:
        raise HarvestError(
            f"{what} is {str(value)[:50]}; expected a whole number from 0 to {_MAX_TRIALS:,}."
        )


def _check_sha256(name: str, value: str | None) -> None:
    if value is not None and not _SHA256.fullmatch(value):
        raise HarvestError(f"{name} is {value[:100]!r}; expected 64 hexadecimal digits.")
