"""Exports: the table as CSV or Parquet, and files as browsers keep them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.responses import Response

from harvest_assets.files.sanitize import FORMULA
from harvest_assets.viewer.interpreted import interpreted

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from harvest_assets.viewer.harvest import Harvest

_COLUMNS = ("component_key", "layer", "component_idx", "firing_count", "density", "mean_ci")


def table_frame(harvest: Harvest, places: NDArray[np.int64]) -> pl.DataFrame:
    """The rows of a table, the tokens as texts.

    Columns: component_key, layer, component_idx, firing_count, density, mean_ci, telling, reads and
    predicts (lists of texts, empty where not known); where anything was written about components,
    also the columns of `interpretations.current`.
    """
    rows = harvest.frame[places]
    texts = [token_texts(harvest, rows[name]) for name in ("reads", "predicts")]
    # The same name as in the Parquet tables.
    informativeness = rows["informativeness"].alias("telling")
    written = interpreted(harvest)
    more = written.frame[places].get_columns() if written.history else []
    return rows.select(*_COLUMNS).with_columns(informativeness, *texts, *more)


def token_texts(harvest: Harvest, ids: pl.Series) -> pl.Series:
    """A column of lists of token ids as lists of texts, empty where there is none."""
    import polars as pl

    text = harvest.vocabulary.text
    return pl.Series(
        ids.name,
        [[text(i) for i in (() if row is None else row)] for row in ids],
        dtype=pl.List(pl.String),
    )


def as_csv(frame: pl.DataFrame) -> bytes:
    """A table as CSV with a header; tokens are quoted as in JSON and joined by spaces.

    Texts that a spreadsheet would take for formulas begin with `'`.
    """
    import polars as pl

    if "tags" in frame.columns:
        frame = frame.with_columns(pl.col("tags").list.join(", "))

    joined = [
        pl.Series(name, [_joined(texts) for texts in frame[name]], dtype=pl.String)
        for name in ("reads", "predicts")
    ]
    return without_formulas(frame.with_columns(joined)).write_csv().encode()


def without_formulas(frame: pl.DataFrame) -> pl.DataFrame:
    """A table whose texts no spreadsheet takes for formulas: such begin with `'`."""
    import polars as pl

    return frame.with_columns(pl.col(pl.String).str.replace(FORMULA, "'${1}"))


def as_parquet(frame: pl.DataFrame) -> bytes:
    """A table as Parquet."""
    file = io.BytesIO()
    frame.write_parquet(file)
    return file.getvalue()


def download(content: bytes, media: str, name: str) -> Response:
    """A file; characters that no header takes are replaced in its name."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
    headers = {"Content-Disposition": f'attachment; filename="{safe}"'}
    return Response(content, media_type=media, headers=headers)


def _joined(texts: Sequence[str]) -> str:
    return " ".join(json.dumps(text, ensure_ascii=False) for text in texts)
