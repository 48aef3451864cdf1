"""Analyses of a harvest: which components fire together, and on which tokens.

From the stored counts, for a component i against all j over n positions:

    precision  n_ij / n_i          recall  n_ij / n_j
    jaccard    n_ij / (n_i + n_j - n_ij)
    pmi        log(n_ij * n / (n_i * n_j))

and for a component c against all tokens t:

    recall     n_ct / n_c          precision  n_ct / n_t
    lift       precision / (n_c / n)
    pmi        log(n_ct * n / (n_c * n_t))

Only what occurred together is ranked; ties go to the lower index.

The informativeness of a component is the information, in nats, that one firing gives about the
token read or about the token predicted, whichever is more, times the logarithm of its firings, so
that the rarest do not always come first:

    log(1 + n_c) * max over input, output of  sum_t p(t | c) log(p(t | c) / p(t))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from harvest_assets.data.vocabulary import Vocabulary
from harvest_assets.errors import HarvestError
from harvest_assets.results.pmi import pmi

if TYPE_CHECKING:
    import torch

    from harvest_assets.results.count_tensors import CorrelationStorage, TokenStatsStorage

Metric = Literal["precision", "recall", "jaccard", "pmi"]
METRICS: tuple[Metric, ...] = ("precision", "recall", "jaccard", "pmi")
TokenMetric = Literal["recall", "precision", "lift", "pmi"]
TOKEN_METRICS: tuple[TokenMetric, ...] = ("recall", "precision", "lift", "pmi")

Scored = list[tuple[str, float]]

_SIMILAR = 0.3  # the Jaccard index from which two components count as nearly the same
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class CorrelatedComponent:
    """A component that fired together with the one that was asked for.

    Args:
        component_key: of component j.
        score: the metric's value.
        count_i: firings of the component that was asked for.
        count_j: firings of this one.
        count_ij: positions at which both fired.
        count_total: positions seen.
    """

    component_key: str
    score: float
    count_i: int
    count_j: int
    count_ij: int
    count_total: int


@dataclass(frozen=True, slots=True)
class TokenPRLift:
    """A component's tokens, decoded, each with its score, highest first.

    Args:
        top_recall: share of the component's firings that each token has.
        top_precision: share of each token's occurrences at which the component fires.
        top_lift: precision, divided by the share of all positions at which it fires.
        top_pmi: pointwise mutual information, in nats.
        bottom_pmi: the same, lowest first; None for input tokens.
    """

    top_recall: Scored
    top_precision: Scored
    top_lift: Scored
    top_pmi: Scored
    bottom_pmi: Scored | None


def has_component(storage: CorrelationStorage | TokenStatsStorage, component_key: str) -> bool:
    """Whether a harvest has a component, fired or not."""
    return component_key in storage.component_keys


def get_correlated_components(
    storage: CorrelationStorage,
    component_key: str,
    metric: Metric,
    top_k: int,
    largest: bool = True,
) -> list[CorrelatedComponent]:
    """The components that fired together with one, ranked.

    Args:
        storage: the counts.
        component_key: component i.
        metric: `precision`, `recall`, `jaccard` or `pmi`.
        top_k: how many at most.
        largest: the highest scores first; else the lowest.

    Returns:
        Never the component itself, never one that did not fire together with it.

    Raises:
        HarvestError: the component or the metric is unknown, or the run was harvested with
            `--no-cooccurrence`.
    """
    i = _index(storage.component_keys, component_key)
    if metric not in METRICS:
        raise HarvestError(f"metric {metric!r} is unknown; known are {', '.join(METRICS)}.")
    together, firings = storage.cofirings()[i].numpy(), storage.count_i.numpy()
    others = np.flatnonzero(together)
    others = others[others != i]
    if len(others) == 0:
        return []
    n_ij, n_j = _float64(together[others]), _float64(firings[others])
    n_i, n = float(firings[i]), float(storage.count_total)
    scores = correlation_scores(n_ij, n_i, n_j, n)[metric]
    return [
        CorrelatedComponent(
            component_key=storage.component_keys[others[place]],
            score=float(scores[place]),
            count_i=int(firings[i]),
            count_j=int(firings[others[place]]),
            count_ij=int(together[others[place]]),
            count_total=storage.count_total,
        )
        for place in ranked(scores, top_k, largest=largest)
    ]


def get_input_token_stats(
    storage: TokenStatsStorage, component_key: str, tokenizer: Any, top_k: int
) -> TokenPRLift | None:
    """The tokens on which a component fires; None if it never fired.

    Args:
        storage: the counts.
        component_key: of the component.
        tokenizer: a `Vocabulary`, a tokenizer of `transformers` or `tokenizers`, or anything that
            has `decode` and `vocab_size`. Ids above its highest, added tokens aside, are left out.
        top_k: tokens in each list at most.

    Raises:
        HarvestError: the component is unknown.
    """
    i = _index(storage.component_keys, component_key)
    return _token_stats(
        storage, i, storage.input_counts[i], storage.input_totals, tokenizer, top_k, bottom=False
    )


def get_output_token_stats(
    storage: TokenStatsStorage, component_key: str, tokenizer: Any, top_k: int
) -> TokenPRLift | None:
    """The tokens that the model predicts where a component fires; None if it never fired.

    The arguments are those of `get_input_token_stats`; counts are sums of probabilities.

    Raises:
        HarvestError: the component is unknown.
    """
    i = _index(storage.component_keys, component_key)
    return _token_stats(
        storage, i, storage.output_counts[i], storage.output_totals, tokenizer, top_k, bottom=True
    )


def get_informative_components(
    correlations: CorrelationStorage, token_stats: TokenStatsStorage, top_k: int
) -> list[str]:
    """The keys of the most informative components, highest first.

    Of components that often fire together, only the first is listed.

    Args:
        correlations: co-firing counts.
        token_stats: token counts of the same harvest.
        top_k: how many at most.
    """
    firings = _float64(correlations.count_i.numpy())
    n = token_stats.n_tokens
    scores = np.log1p(firings) * np.maximum(
        _information(token_stats.input_counts, token_stats.input_totals, firings, n),
        _information(token_stats.output_counts, token_stats.output_totals, firings, n),
    )
    chosen: list[int] = []
    for i in ranked(scores, len(scores), largest=True):
        if len(chosen) >= top_k or firings[i] == 0:
            break
        if not _mostly_with_another(correlations, firings, i, chosen):
            chosen.append(i)
    return [correlations.component_keys[i] for i in chosen]


def _mostly_with_another(
    correlations: CorrelationStorage, firings: NDArray[np.float64], i: int, chosen: list[int]
) -> bool:
    """Whether a component mostly fires together with one of those chosen; False if not counted."""
    if correlations.count_ij is None:
        return False
    together = _float64(correlations.count_ij[i].numpy()[chosen])
    either = firings[i] + firings[chosen] - together
    return bool((together > _SIMILAR * either).any())


get_telling_components = get_informative_components  # the name in version 0.1


def _information(
    counts: torch.Tensor, totals: torch.Tensor, firings: NDArray[np.float64], n: int
) -> NDArray[np.float64]:
    """Nats of information about a token in one firing of each component, [C_total]."""
    nats = np.zeros(len(firings))
    for first in range(0, len(firings), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        joint = _float64(counts[rows].numpy())
        c, t = np.nonzero(joint)
        n_ct, n_c, n_t = joint[c, t], firings[rows][c], _float64(totals.numpy())[t]
        terms: NDArray[np.float64] = n_ct / n_c * pmi(n_ct, n_c, n_t, n)
        nats[rows] = np.bincount(c, weights=terms, minlength=len(joint))
    return nats


def _token_stats(
    storage: TokenStatsStorage,
    i: int,
    counts: torch.Tensor,
    totals: torch.Tensor,
    tokenizer: Any,
    top_k: int,
    *,
    bottom: bool,
) -> TokenPRLift | None:
    n_c, n = float(storage.firing_counts[i]), float(storage.n_tokens)
    if n_c == 0:
        return None
    vocabulary = Vocabulary.of(tokenizer)
    joint = counts.numpy()[: vocabulary.vocab_size]
    tokens = np.flatnonzero(joint)
    n_ct, n_t = _float64(joint[tokens]), _float64(totals.numpy()[tokens])
    scores = token_scores(n_ct, n_c, n_t, n)

    def listed(metric: TokenMetric, *, largest: bool = True) -> Scored:
        return [
            (vocabulary.text(int(tokens[place])), float(scores[metric][place]))
            for place in ranked(scores[metric], top_k, largest=largest)
        ]

    return TokenPRLift(
        top_recall=listed("recall"),
        top_precision=listed("precision"),
        top_lift=listed("lift"),
        top_pmi=listed("pmi"),
        bottom_pmi=listed("pmi", largest=False) if bottom else None,
    )


def correlation_scores(
    n_ij: NDArray[np.float64], n_i: float, n_j: NDArray[np.float64], n: float
) -> dict[Metric, NDArray[np.float64]]:
    """All metrics of one component against others, each float64 [others].

    Args:
        n_ij: float64 [others], positions at which both fired, all above 0.
        n_i: firings of the component.
        n_j: float64 [others], firings of each other.
        n: positions seen.
    """
    return {
        "precision": n_ij / n_i,
        "recall": n_ij / n_j,
        "jaccard": n_ij / (n_i + n_j - n_ij),
        "pmi": pmi(n_ij, n_i, n_j, n),
    }


def token_scores(
    n_ct: NDArray[np.float64], n_c: float, n_t: NDArray[np.float64], n: float
) -> dict[TokenMetric, NDArray[np.float64]]:
    """All metrics of one component against tokens, each float64 [tokens].

    Args:
        n_ct: float64 [tokens], counts or probability mass with the component, all above 0.
        n_c: firings of the component.
        n_t: float64 [tokens], the same over all positions.
        n: positions seen.
    """
    precision = n_ct / n_t
    return {
        "recall": n_ct / n_c,
        "precision": precision,
        "lift": precision / (n_c / n),
        "pmi": pmi(n_ct, n_c, n_t, n),
    }


def ranked(scores: NDArray[np.float64], k: int, *, largest: bool) -> list[int]:
    """The places of the k highest or lowest scores, ties by the lower place."""
    # No rounding: equal ratios of counts have equal bits, and different ones may be 1e-9 and less.
    order = np.argsort(-scores if largest else scores, kind="stable")
    return order[: max(0, k)].tolist()  # type: ignore[no-any-return]


def _index(component_keys: list[str], component_key: str) -> int:
    try:
        return component_keys.index(component_key)
    except ValueError:
        raise HarvestError(f"There is no component {component_key!r} in this harvest.") from None


def _float64(counts: NDArray[Any]) -> NDArray[np.float64]:
    """In float64: products of counts overflow int64."""
    return counts.astype(np.float64)
