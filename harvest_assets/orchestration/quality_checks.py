"""Checks of a harvest's quality: doubtful values warn, impossible ones fail; none blocks."""

import warnings
from typing import Any

import dagster as dg
import numpy as np
from numpy.typing import NDArray

from harvest_assets.files.sanitize import plain_text
from harvest_assets.orchestration.asset_metadata import table
from harvest_assets.orchestration.failures import refuses_bad_input
from harvest_assets.orchestration.jobs import asset_key
from harvest_assets.orchestration.partitions import registration, runs
from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage
from harvest_assets.stages import Asset

MAX_DEAD = 0.5
FEW_FIRINGS, MAX_WITH_FEW = 100, 0.2
FEW_OCCURRENCES, MAX_RARE = 10, 0.5
PROBABILITY_WARNS, PROBABILITY_FAILS = 1e-4, 1e-2

warnings.filterwarnings(
    "ignore", message="Specifying a partitions_def on an AssetCheckSpec", category=dg.PreviewWarning
)


@dg.asset_check(asset=asset_key(Asset.COMPONENT_CORRELATIONS), partitions_def=runs)
@refuses_bad_input
def components_are_alive(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """At most half of the components never fired: else there are more than it needs."""
    counts = _correlations(context)
    return judge_alive(counts.component_keys, counts.count_i.numpy())


@dg.asset_check(asset=asset_key(Asset.COMPONENT_CORRELATIONS), partitions_def=runs)
@refuses_bad_input
def components_fired_often_enough(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """At most a fifth of the living components fired fewer than 100 times: their PMI is noise."""
    return judge_firings(_correlations(context).count_i.numpy())


@dg.asset_check(asset=asset_key(Asset.TOKEN_STATS), partitions_def=runs)
@refuses_bad_input
def tokens_occurred_often_enough(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """At most half of the tokens that occurred did so fewer than 10 times."""
    return judge_occurrences(_token_stats(context).input_totals.numpy())


@dg.asset_check(asset=asset_key(Asset.TOKEN_STATS), partitions_def=runs)
@refuses_bad_input
def probabilities_sum_to_one(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """The model's next-token probabilities add up to 1 at a position, on average."""
    stats = _token_stats(context)
    return judge_probabilities(float(stats.output_totals.double().sum()), stats.n_tokens)


def judge_alive(keys: list[str], firings: NDArray[np.int64]) -> dg.AssetCheckResult:
    """Warn where more than half of the components never fired.

    Args:
        keys: of the components, in flat order.
        firings: int64 [C].
    """
    layers: dict[str, list[int]] = {}
    for key, count in zip(keys, firings.tolist(), strict=True):
        layers.setdefault(key.rpartition(":")[0], []).append(count)
    by_layer = {
        layer: sum(c == 0 for c in counts) / len(counts) for layer, counts in layers.items()
    }
    worst = sorted(by_layer.items(), key=lambda item: -item[1])[:10]
    shares = [(plain_text(layer), f"{share:.1%}") for layer, share in worst]
    dead = float((firings == 0).mean()) if len(firings) else 0.0
    return _warns(
        dead <= MAX_DEAD,
        f"{dead:.1%} of {len(firings):,} components never fired",
        {
            "dead share": dead,
            "highest allowed": MAX_DEAD,
            "layers": table(("layer", "never fired"), shares),
        },
    )


def judge_firings(firings: NDArray[np.int64]) -> dg.AssetCheckResult:
    """Warn where more than a fifth of the living components fired fewer than 100 times."""
    alive = firings[firings > 0]
    few = int((alive < FEW_FIRINGS).sum())
    share = few / max(1, len(alive))
    return _warns(
        share <= MAX_WITH_FEW,
        f"{few:,} of {len(alive):,} living components ({share:.1%}) fired fewer than "
        f"{FEW_FIRINGS} times" + ("; harvest more batches" if share > MAX_WITH_FEW else ""),
        {"with few firings": few, "share": share, "highest allowed": MAX_WITH_FEW},
    )


def judge_occurrences(totals: NDArray[np.float64]) -> dg.AssetCheckResult:
    """Warn where more than half of the tokens that occurred did so fewer than 10 times.

    Args:
        totals: float64 [V].
    """
    there = totals[totals > 0]
    rare = int((there < FEW_OCCURRENCES).sum())
    share = rare / max(1, len(there))
    return _warns(
        share <= MAX_RARE,
        f"{rare:,} of the {len(there):,} tokens that occurred ({share:.1%}) did so fewer than "
        f"{FEW_OCCURRENCES} times" + ("; harvest more batches" if share > MAX_RARE else ""),
        {
            "rare tokens": rare,
            "share": share,
            "highest allowed": MAX_RARE,
            "vocabulary": len(totals),
        },
    )


def judge_probabilities(mass: float, n_tokens: int) -> dg.AssetCheckResult:
    """Warn above a mean error of 1e-4 (16-bit arithmetic), fail above 1e-2.

    Args:
        mass: sum of the probabilities of all tokens at all positions.
        n_tokens: positions.
    """
    mean = mass / n_tokens if n_tokens else 1.0
    error = abs(mean - 1)
    severity = dg.AssetCheckSeverity.ERROR if error > PROBABILITY_FAILS else _WARN
    return dg.AssetCheckResult(
        passed=error <= PROBABILITY_WARNS,
        severity=severity,
        description=f"the probabilities at a position add up to {mean:.6f} on average",
        metadata={"mean error": error, "warns above": PROBABILITY_WARNS},
    )


_WARN = dg.AssetCheckSeverity.WARN


def _warns(passed: Any, description: str, metadata: dict[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=bool(passed), severity=_WARN, description=description, metadata=metadata
    )


def _correlations(context: dg.AssetCheckExecutionContext) -> CorrelationStorage:
    return CorrelationStorage.load(
        registration(context.partition_key).layout.component_correlations
    )


def _token_stats(context: dg.AssetCheckExecutionContext) -> TokenStatsStorage:
    return TokenStatsStorage.load(registration(context.partition_key).layout.token_stats)
