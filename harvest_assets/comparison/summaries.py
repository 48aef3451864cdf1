"""One row of numbers for each harvest, and for each of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harvest_assets.comparison.opened import SCORE

if TYPE_CHECKING:
    import polars as pl

    from harvest_assets.comparison.opened import OpenedHarvest

_QUANTILES = (5, 25, 50, 75, 95)
# Always a column; other methods only where one of the harvests has scores by them.
_INTRUDER = "intruder"


def components_of(harvests: Sequence[OpenedHarvest]) -> pl.DataFrame:
    """One row for each component of each harvest, in flat order.

    Columns: harvest, component_key, layer, firing_count, density (firings per token),
    informativeness, and `score_<method>` for each method of scoring.
    """
    import polars as pl

    frames = [it.frame.select(pl.lit(it.name).alias("harvest"), pl.all()) for it in harvests]
    methods = sorted({_INTRUDER, *(method for it in harvests for method in it.scored_by)})
    empty = pl.DataFrame(schema={SCORE + method: pl.Float64 for method in methods})
    return pl.concat([*frames, empty], how="diagonal")


def summary_of(harvests: Sequence[OpenedHarvest], components: pl.DataFrame) -> pl.DataFrame:
    """One row for each harvest.

    Args:
        harvests: what is compared.
        components: of `components_of`.

    Returns:
        The columns harvest, run, kind, target, tokens, threshold (components fire where their
        strength is above); components, alive (that fired), share_alive, l0 (components that fire at
        a token, on average); of those alive density_q05 to density_q95, informativeness_mean and
        informativeness_median; for each method of scoring its mean score (`intruder_mean`) and how
        many components have one (`intruder_n`).
    """
    import polars as pl

    described = pl.DataFrame(
        [
            {
                "harvest": it.name,
                "run": it.run,
                "kind": it.kind,
                "target": it.target,
                "tokens": it.n_tokens,
                "threshold": it.threshold,
            }
            for it in harvests
        ],
        schema_overrides={"target": pl.String, "threshold": pl.Float64},
    )
    numbers = _grouped(components, "harvest")
    return described.join(numbers, on="harvest", how="left", maintain_order="left")


def layers_of(components: pl.DataFrame) -> pl.DataFrame:
    """One row for each layer of each harvest, in flat order: the columns of `summary_of`."""
    return _grouped(components, "harvest", "layer")


def _grouped(components: pl.DataFrame, *by: str) -> pl.DataFrame:
    methods = [name.removeprefix(SCORE) for name in components.columns if name.startswith(SCORE)]
    return components.group_by(by, maintain_order=True).agg(*_numbers(methods))


def _numbers(methods: Sequence[str]) -> list[pl.Expr]:
    import polars as pl

    alive = pl.col("firing_count") > 0
    density = pl.col("density").filter(alive)
    informativeness = pl.col("informativeness").filter(alive)
    quantiles = [density.quantile(q / 100, "linear").alias(f"density_q{q:02d}") for q in _QUANTILES]
    scores = [
        number
        for method in methods
        for number in (
            pl.col(SCORE + method).mean().alias(f"{method}_mean"),
            pl.col(SCORE + method).count().alias(f"{method}_n"),
        )
    ]
    return [
        pl.len().alias("components"),
        alive.sum().alias("alive"),
        alive.mean().alias("share_alive"),
        pl.col("density").sum().alias("l0"),
        *quantiles,
        informativeness.mean().alias("informativeness_mean"),
        informativeness.median().alias("informativeness_median"),
        *scores,
    ]
