"""Reads `harvest.db`, which may come from anybody: each value is checked before it is used."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.sqlite_file import opened_database, tables_of
from harvest_assets.files.untrusted import as_record, parse_json
from harvest_assets.results.components_jsonl import pmi_of
from harvest_assets.schemas import ComponentTokenPMI
from harvest_assets.settings import MAX_COUNT
from harvest_assets.sharing.windows import centers

DATABASE = "harvest.db"
_TYPE = "SPDHarvestConfig"
_MAX_DATABASE_BYTES = 1 << 40
_MAX_VALUE_BYTES = 64 << 20
_MAX_SETTINGS = 1_000
_MAX_TOKENS = 16 << 20  # of the examples of a component
_MAX_PER_SIDE = 1 << 16
_EXAMPLES = "activation_examples"
_JSON = ("mean_activations", _EXAMPLES, "input_token_pmi", "output_token_pmi")
_COLUMNS = ("component_key", "layer", "component_idx", "firing_density", *_JSON)
_VALUES = ("causal_importance", "component_activation")


@dataclass(frozen=True)
class _Method:
    type: str
    wandb_path: str
    activation_threshold: float


@dataclass(frozen=True)
class _Settings:
    n_batches: int | None
    batch_size: int
    activation_examples_per_component: int
    activation_context_tokens_per_side: int
    pmi_token_top_k: int


@dataclass(frozen=True)
class DbSettings:
    """The table `config`.

    Args:
        run: the run as the database names it.
        ci_threshold: above which a component fires.
        n_batches: batches of the harvest; None where it says none.
        batch_size: rows of a batch.
        n_examples: of a component at most.
        per_side: tokens on each side of a firing.
        pmi_top_k: tokens in each PMI list.
    """

    run: str
    ci_threshold: float
    n_batches: int | None
    batch_size: int
    n_examples: int
    per_side: int
    pmi_top_k: int

    @property
    def window(self) -> int:
        """Tokens of a whole window."""
        return 2 * self.per_side + 1

    def row_length(self, n_tokens: int) -> int | None:
        """Tokens of a row if all batches that were asked for were seen; None if that is uneven."""
        n_rows = (self.n_batches or 0) * self.batch_size
        return n_tokens // n_rows if n_rows and n_tokens and n_tokens % n_rows == 0 else None


@dataclass(frozen=True)
class ExampleCounts:
    """The examples of a database in numbers.

    Args:
        n: of all components.
        n_tokens: stored.
        longest: tokens of the longest.
    """

    n: int
    n_tokens: int
    longest: int


@dataclass(frozen=True)
class DbExamples:
    """The examples of a component, n windows of W tokens with the firing in the middle.

    Args:
        token_ids: int32 [n, W], -1 outside the window that is stored.
        ci_values: float32 [n, W].
        component_acts: float32 [n, W].
        n_cut: windows that are shorter than W.
        n_uncertain: those whose firing may be at more than one place; the last is taken.
    """

    token_ids: NDArray[np.int32]
    ci_values: NDArray[np.float32]
    component_acts: NDArray[np.float32]
    n_cut: int = 0
    n_uncertain: int = 0

    @classmethod
    def none(cls, window: int) -> DbExamples:
        """No examples."""
        values = np.zeros((0, window), dtype=np.float32)
        return cls(values.astype(np.int32), values, values)


@dataclass(frozen=True)
class DbComponent:
    """A row of `components`.

    Args:
        firing_density: firings per token.
        mean_ci: over all tokens.
        examples: in the order of the database.
        input_token_pmi: tokens on which it fires.
        output_token_pmi: tokens that the model then predicts.
        n_bytes: of the row's JSON.
    """

    firing_density: float
    mean_ci: float
    examples: DbExamples
    input_token_pmi: ComponentTokenPMI
    output_token_pmi: ComponentTokenPMI
    n_bytes: int

    @classmethod
    def none(cls, window: int) -> DbComponent:
        """That of a component which never fired; what the database lacks is zero."""
        pmi = ComponentTokenPMI([], [])
        return cls(0.0, 0.0, DbExamples.none(window), pmi, pmi, 0)


class HarvestDb:
    """An open database.

    Args:
        path: of the file, for messages.
        database: the connection.

    Raises:
        HarvestError: a table is missing or is not a plain one, or the settings are not valid.
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self._path, self._database = path, database
        tables = tables_of(database)
        self.has_scores = "scores" in tables
        for table in ("components", "config"):
            if table not in tables:
                raise HarvestError(f"{path} has no table {table!r}; expected one of SPD's harvest.")
            self._check_plain(table)
        self.settings = self._settings()

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[HarvestDb]:
        """Open the file.

        Raises:
            HarvestError: it is not such a database, or is damaged.
            OSError: it cannot be read.
        """
        with opened_database(path, _MAX_DATABASE_BYTES, _MAX_VALUE_BYTES) as database:
            yield cls(path, database)

    def row_ids(self, keys: Sequence[str]) -> list[int | None]:
        """For each component its row; None of those without one.

        Raises:
            HarvestError: a row is of none of them, or two are of the same.
        """
        places = {key: place for place, key in enumerate(keys)}
        found: list[int | None] = [None] * len(keys)
        for key, row_id in self._database.execute("SELECT component_key, rowid FROM components"):
            place = places.get(key) if isinstance(key, str) else None
            if place is None:
                raise HarvestError(
                    f"{self._path}: the table components has a row of {_shown(key)}, which the .pt "
                    "files beside it do not have."
                )
            if found[place] is not None:
                raise HarvestError(f"{self._path}: the table components has {key!r} twice.")
            found[place] = row_id
        return found

    def count_examples(self) -> ExampleCounts:
        """Its examples, counted; those that are not valid, which `component` refuses, are not."""
        n = n_tokens = longest = 0
        for (stored,) in self._database.execute(f"SELECT {_EXAMPLES} FROM components"):  # noqa: S608
            try:
                lengths = [len(example["token_ids"]) for example in orjson.loads(stored)]
            except (ValueError, TypeError, KeyError):
                continue
            n, n_tokens = n + len(lengths), n_tokens + sum(lengths)
            longest = max(longest, *lengths, 0)
        return ExampleCounts(n, n_tokens, longest)

    def component(
        self, key: str, row_id: int, row_length: int | None, vocab_size: int
    ) -> DbComponent:
        """The row of a component.

        Args:
            key: of the component.
            row_id: of its row.
            row_length: tokens of a row; None where not known.
            vocab_size: token ids are below it.

        Raises:
            HarvestError: a value is not valid.
        """
        try:
            return self._component(key, row_id, row_length, vocab_size)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else reason_of(error)
            raise HarvestError(
                f"{self._path}: the row of {key[:200]!r} is not valid: {what}."
            ) from error

    def _component(
        self, key: str, row_id: int, row_length: int | None, vocab_size: int
    ) -> DbComponent:
        query = f"SELECT {', '.join(_COLUMNS)} FROM components WHERE rowid = ?"  # noqa: S608
        rows = self._database.execute(query, (row_id,)).fetchall()
        if len(rows) != 1 or (rows[0][0], f"{rows[0][1]}:{rows[0][2]}") != (key, key):
            raise ValueError("its layer and index are not those of its key")
        values = {
            name: _column(name, value) for name, value in zip(_JSON, rows[0][4:], strict=True)
        }
        return DbComponent(
            firing_density=_number("firing_density", rows[0][3]),
            mean_ci=_number("its mean", values["mean_activations"]["causal_importance"]),
            examples=_examples(values[_EXAMPLES], self.settings, row_length, vocab_size),
            input_token_pmi=_pmi(values["input_token_pmi"], vocab_size),
            output_token_pmi=_pmi(values["output_token_pmi"], vocab_size),
            n_bytes=sum(len(value) for value in rows[0][4:]),
        )

    def _check_plain(self, table: str) -> None:
        """Refuse a table whose columns are computed while they are read."""
        (sql,) = self._database.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)
        ).fetchone()
        is_virtual = not isinstance(sql, str) or sql.split()[1].upper() != "TABLE"
        # The names are ours.
        columns = self._database.execute(f"PRAGMA table_xinfo({table})").fetchall()
        if is_virtual or any(hidden for *_, hidden in columns):
            raise HarvestError(f"{self._path}: {table} is not a plain table.")

    def _settings(self) -> DbSettings:
        rows = self._database.execute("SELECT key, value FROM config").fetchmany(_MAX_SETTINGS)
        try:
            values = {key: _setting(str(key)[:100], value) for key, value in rows}
            method = as_record(values["method_config"], _Method, ignore_unknown=True)
            known = as_record(values, _Settings, ignore_unknown=True)
            return _checked(method, known)
        except (ValueError, TypeError, KeyError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else reason_of(error)
            raise HarvestError(f"{self._path}: the table config is not valid: {what}.") from error


def _checked(method: _Method, known: _Settings) -> DbSettings:
    if method.type != _TYPE:
        raise ValueError(f"its type is {method.type[:100]!r}; only {_TYPE!r} can be imported")
    counts = {
        "n_batches": 0 if known.n_batches is None else known.n_batches,
        "batch_size": known.batch_size,
        "activation_examples_per_component": known.activation_examples_per_component,
        "pmi_token_top_k": known.pmi_token_top_k,
    }
    for name, value in counts.items():
        if not 0 <= value <= MAX_COUNT:
            raise ValueError(f"{name} is {value}")
    per_side = known.activation_context_tokens_per_side
    if not 0 <= per_side <= _MAX_PER_SIDE:
        raise ValueError(f"activation_context_tokens_per_side is {per_side}")
    return DbSettings(
        run=method.wandb_path,
        ci_threshold=method.activation_threshold,
        n_batches=known.n_batches,
        batch_size=known.batch_size,
        n_examples=known.activation_examples_per_component,
        per_side=per_side,
        pmi_top_k=known.pmi_token_top_k,
    )


def _setting(name: str, value: Any) -> Any:
    """The value of a setting; BLOBs of JSON and texts are both found."""
    try:
        return parse_json(value.encode() if isinstance(value, str) else value)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{name} is not JSON: {reason_of(error)}") from error


def _column(name: str, value: Any) -> Any:
    """The value of a JSON column: lists of numbers, mostly, which are parsed fast."""
    kind = list if name == _EXAMPLES else dict
    try:
        found = orjson.loads(value)
    except ValueError as error:
        raise ValueError(f"{name} is not JSON: {reason_of(error)}") from error
    if type(found) is not kind:
        raise TypeError(f"{name} is {_shown(found)}, not a {kind.__name__}")
    return found


def _examples(
    stored: list[Any], settings: DbSettings, row_length: int | None, vocab_size: int
) -> DbExamples:
    if len(stored) > settings.n_examples or {*map(type, stored)} - {dict}:
        raise ValueError(f"{_EXAMPLES} does not hold at most {settings.n_examples:,} examples")
    shape = (len(stored), settings.window)
    if len(stored) * settings.window > _MAX_TOKENS:
        raise ValueError(f"it has more than {_MAX_TOKENS:,} tokens of examples")
    token_ids = np.full(shape, -1, dtype=np.int32)
    values = {name: np.zeros(shape, dtype=np.float32) for name in _VALUES}
    n_cut = n_uncertain = 0
    for place, example in enumerate(stored):
        ids, firings = example["token_ids"], example["firings"]
        _check_list("token_ids", ids, {int})
        _check_list("firings", firings, {bool}, len(ids))
        if not ids or len(ids) > settings.window or min(ids) < 0 or max(ids) >= vocab_size:
            raise ValueError(
                f"example {place} has no tokens, more than {settings.window}, or an id that is not "
                f"below {vocab_size:,}"
            )
        try:
            possible = centers(firings, settings.per_side, row_length)
        except ValueError as error:
            raise ValueError(f"example {place}: {error}") from None
        n_cut += len(ids) < settings.window
        n_uncertain += len(possible) > 1
        start = settings.per_side - possible[-1]
        inside = slice(start, start + len(ids))
        token_ids[place, inside] = ids
        for name, table in values.items():
            numbers = example["activations"][name]
            _check_list(name, numbers, {int, float}, len(ids))
            with np.errstate(over="ignore"):  # what becomes infinite is refused below
                table[place, inside] = numbers
    if not all(np.isfinite(table).all() for table in values.values()):
        raise ValueError("an example has a value that is not finite in float32")
    ci_values, component_acts = values.values()
    return DbExamples(token_ids, ci_values, component_acts, n_cut, n_uncertain)


def _check_list(name: str, values: Any, kinds: set[type], length: int | None = None) -> None:
    if type(values) is not list or not {*map(type, values)} <= kinds:
        expected = " or ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"{name} of an example is not a list ({expected})")
    if length is not None and len(values) != length:
        raise ValueError(f"{name} of an example has {len(values):,} values; expected {length:,}")


def _pmi(value: Any, vocab_size: int) -> ComponentTokenPMI:
    pmi = pmi_of(value)
    for token, _ in (*pmi.top, *pmi.bottom):
        if token >= vocab_size:
            raise ValueError(f"a PMI list has the token {token:,} of {vocab_size:,}")
    return pmi


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not np.isfinite(value):
        raise ValueError(f"{name} is {_shown(value)}, not a finite number")
    return float(value)


def _shown(value: Any) -> str:
    return repr(value[:100] if isinstance(value, bytes | str) else value)[:200]
