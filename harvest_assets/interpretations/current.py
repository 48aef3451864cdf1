"""What holds now, from the history: the newest value of each field, a person's label first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import polars as pl

from harvest_assets.interpretations.entries import Entry, field_of_person, sha256_of_text

_ORDER = ("written_at", "entry_id")
_LABEL = ("label", "label_source", "label_author", "confidence", "reason")
_EDITED: dict[str, Any] = {"note": pl.String, "starred": pl.Boolean, "tags": pl.List(pl.String)}


def current(labels: pl.DataFrame, scores: pl.DataFrame, edits: pl.DataFrame) -> pl.DataFrame:
    """One row for each component that has entries, sorted by key.

    Args:
        labels: the whole history, as the other two.
        scores: of the components or their labels.
        edits: by people.

    Returns:
        The columns component_key, label, label_source, label_author, confidence, reason, note,
        starred (never null), tags (never null), and `score_<method>` for each method: null where
        all scores are of other labels.
    """
    keys = pl.concat([frame["component_key"] for frame in (labels, scores, edits)])
    frame = pl.DataFrame({"component_key": keys.unique().sort()})
    chosen = _labels(labels, edits)
    for part in (chosen, *_edited(edits), _scores(newest_scores(scores, chosen))):
        frame = frame.join(part, on="component_key", how="left", maintain_order="left")
    return _without_nulls(frame)


def joined(components: pl.DataFrame, now: pl.DataFrame) -> pl.DataFrame:
    """A frame of components with the columns of `current`; its rows and their order stay."""
    frame = components.join(now, on="component_key", how="left", maintain_order="left")
    return _without_nulls(frame)


def after_earlier(
    entries: Iterable[Entry], labels: pl.DataFrame, edits: pl.DataFrame
) -> list[Entry]:
    """New entries; those by people are dated at least 1 microsecond after what they replace.

    Args:
        entries: not written yet.
        labels: the whole history, as `edits`.
        edits: by people.
    """
    own = labels.filter(pl.col("source") == "person").with_columns(field=pl.lit("label"))
    columns = ["component_key", "field", "written_at"]
    newest = pl.concat([own.select(columns), edits.select(columns)])
    rows = newest.group_by("component_key", "field").agg(pl.col("written_at").max()).rows()
    times = {(key, field): time + timedelta(microseconds=1) for key, field, time in rows}
    return [
        replace(entry, written_at=max(entry.written_at, earliest))
        if (earliest := times.get((entry.component_key, field_of_person(entry))))
        else entry
        for entry in entries
    ]


def _without_nulls(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(
        pl.col("starred").fill_null(value=False),
        pl.col("tags").fill_null([]),
    )


def _newest(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """The newest row for each value of some columns."""
    return frame.sort(_ORDER).unique(list(columns), keep="last", maintain_order=True)


def _labels(labels: pl.DataFrame, edits: pl.DataFrame) -> pl.DataFrame:
    written = edits.filter(pl.col("field") == "label").select(
        "entry_id",
        "component_key",
        "written_at",
        label=pl.col("value").str.json_decode(pl.String),
        label_source=pl.lit("person"),
        label_author="author",
        confidence=pl.lit(None, pl.Float64),
        reason=pl.lit(""),
    )
    renamed = labels.rename({"source": "label_source", "author": "label_author"})
    both = pl.concat([renamed.select(written.columns), written])
    by_person = pl.col("label_source") == "person"
    # An empty label of a person takes that person's label back.
    first = _newest(both.filter(by_person), "component_key").filter(pl.col("label") != "")
    second = _newest(both.filter(~by_person), "component_key")
    chosen = pl.concat([second, first]).unique("component_key", keep="last", maintain_order=True)
    return chosen.select("component_key", *_LABEL)


def _edited(edits: pl.DataFrame) -> list[pl.DataFrame]:
    return [
        _newest(edits.filter(pl.col("field") == field), "component_key").select(
            "component_key",
            pl.col("value").str.json_decode(kind).alias(field),
        )
        for field, kind in _EDITED.items()
    ]


def newest_scores(scores: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """The newest score of each component by each method, those of its current label first.

    Args:
        scores: the whole history.
        labels: columns component_key and label, as they hold now.

    Returns:
        Rows of `scores`, with a column `outdated`: it is of another label, and there is none that
        holds.
    """
    digest = pl.col("label").map_elements(sha256_of_text, pl.String)
    now = labels.select("component_key", _digest=digest)
    scored = pl.col("label_sha256")
    of_another = scored.is_not_null() & scored.ne_missing(pl.col("_digest"))
    rows = scores.join(now, on="component_key", how="left").with_columns(outdated=of_another)
    return (
        rows.drop("_digest")
        .sort(pl.col("outdated").not_(), *_ORDER)
        .unique(["component_key", "method"], keep="last", maintain_order=True)
    )


def _scores(newest: pl.DataFrame) -> pl.DataFrame:
    if newest.is_empty():
        return newest.select("component_key")
    holding = newest.with_columns(pl.when(~pl.col("outdated")).then("score").alias("score"))
    wide = holding.sort("method").pivot(on="method", index="component_key", values="score")
    return wide.rename(lambda name: name if name == "component_key" else f"score_{name}")
