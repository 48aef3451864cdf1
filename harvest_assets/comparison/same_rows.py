"""What makes two harvests comparable: the same rows of tokens, and the same target.

1. Rows: their length, the tokenizer, the number of tokens and the occurrences of each token are
   equal. Counts of other rows are not compared.
2. Target: a model is recognised by what it predicts. Both harvests summed the next-token
   probabilities of their target over the same rows; two sums of one model differ by rounding only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harvest_assets.errors import HarvestError

if TYPE_CHECKING:
    from harvest_assets.comparison.opened import OpenedHarvest

# Options of a harvest, and the keys of the config that have their values.
_N_ROWS = {"n_batches": "n_batches_seen", "batch_size": "batch_size"}
# The share of all probability mass by which two sums of one model may differ. bfloat16 has about
# three decimal digits, float32 seven, and errors of single positions mostly cancel.
_SAME_IN_BF16, _SAME_IN_FLOAT32 = 1e-3, 1e-4


class NotComparableError(HarvestError):
    """Two harvests are of different rows of tokens."""


@dataclass(frozen=True)
class Sameness:
    """What is known of two harvests of the same rows.

    Args:
        same_target: whether the targets predict the same.
        difference: the share of probability mass that their predictions put on other tokens,
            summed over all rows.
        warnings: sentences about what could not be proved, and what follows.
    """

    same_target: bool
    difference: float
    warnings: tuple[str, ...]


def check_same_rows(one: OpenedHarvest, other: OpenedHarvest) -> Sameness:
    """Check that two harvests are of the same rows, and compare their targets.

    Raises:
        NotComparableError: they are of different rows, or both are the same harvest.
    """
    if one.paths.root.resolve() == other.paths.root.resolve():
        raise NotComparableError(f"{one.name} and {other.name} are the same harvest; name two.")
    _check_equal("a row", "row_length", one, other, {"context_length": "context_length"})
    _check_tokenizers(one, other)
    _check_equal("all rows", "n_tokens", one, other, _N_ROWS)
    _check_tokens(one, other)
    difference = _difference_of_predictions(one, other)
    in_bf16 = one.config.get("bf16") or other.config.get("bf16")
    same = difference <= (_SAME_IN_BF16 if in_bf16 else _SAME_IN_FLOAT32)
    return Sameness(same, difference, tuple(_warnings(one, other, difference, same=same)))


def _check_equal(
    what: str, name: str, one: OpenedHarvest, other: OpenedHarvest, options: Mapping[str, str]
) -> None:
    a, b = (getattr(it, name) for it in (one, other))
    if a is not None and b is not None and a != b:
        raise NotComparableError(
            f"{one.name} has {a:,} tokens in {what}, and {other.name} has {b:,}; harvest "
            f"{_with_options(one, other, options)}."
        )


def _with_options(one: OpenedHarvest, other: OpenedHarvest, options: Mapping[str, str]) -> str:
    """Which harvest to make again with which options; those of `one` where its config has them."""
    values = {option: one.config.get(key) for option, key in options.items()}
    if all(type(value) is int for value in values.values()):
        return f"{other.name} with {' '.join(f'--{name} {it}' for name, it in values.items())}"
    return f"both with the same {' and '.join(f'--{name}' for name in values)}"


def _check_tokenizers(one: OpenedHarvest, other: OpenedHarvest) -> None:
    digests = {it.tokenizer_sha256 for it in (one, other)}
    widths = {it.token_stats.vocab_size for it in (one, other)}
    if len(digests - {None}) > 1 or len(widths) > 1:
        names = " and ".join(f"{it.name} ({_tokenizer(it)})" for it in (one, other))
        raise NotComparableError(
            f"{names} have different vocabularies, so that an id means another token in each; "
            "only harvests with one tokenizer are compared."
        )


def _tokenizer(harvest: OpenedHarvest) -> str:
    name = str(harvest.config.get("tokenizer_name") or "an unknown tokenizer")[:200]
    return f"{name}, {harvest.token_stats.vocab_size:,} ids"


def _check_tokens(one: OpenedHarvest, other: OpenedHarvest) -> None:
    a, b = (it.token_stats.input_totals.numpy() for it in (one, other))
    different = np.flatnonzero(a != b)
    if len(different):
        token = int(different[0])
        first, second = (f"{totals[token]:,.0f}" for totals in (a, b))
        raise NotComparableError(
            f"{one.name} and {other.name} are of different rows: token {token} occurs {first} "
            f"times in the first and {second} times in the second; harvest both from the same "
            "dataset with the same seed of the data."
        )


def _difference_of_predictions(one: OpenedHarvest, other: OpenedHarvest) -> float:
    a, b = (it.token_stats.output_totals.numpy().astype(np.float64) for it in (one, other))
    return float(np.abs(a - b).sum() / 2 / max(1, one.n_tokens))


def _warnings(
    one: OpenedHarvest, other: OpenedHarvest, difference: float, *, same: bool
) -> list[str]:
    found = []
    if not same:
        found.append(
            f"The targets are not the same: {difference:.2%} of the probability that they give to "
            "next tokens differs, so what differs here may be due to the models."
        )
    elif one.target is None or other.target is None:
        found.append(
            "The files do not name both targets; they are taken for one model because they predict "
            "the same."
        )
    if not have_one_order(one, other):
        found.append(
            "Fingerprints do not prove that the rows are the same: it follows from each token "
            "occurring equally often in both."
        )
    return found


def have_one_order(one: OpenedHarvest, other: OpenedHarvest) -> bool:
    """Whether it is certain that a row has the same number in both."""
    a, b = (it.shared_rows() for it in (one, other))
    return a is not None and b is not None and a.fingerprint == b.fingerprint
