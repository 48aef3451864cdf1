"""A score is a function of trials and of the answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harvest_assets.autointerp.intervals import Estimate, balanced_accuracy, share
from harvest_assets.autointerp.trials import Method, Trial

Verdict = tuple[bool, ...]


@dataclass(frozen=True)
class TrialScore:
    """The score of one component.

    Args:
        estimate: the score with its 95 % interval; None if no trial has a usable answer.
        n_trials: trials with a usable answer.
        n_failed: trials without one.
    """

    estimate: Estimate | None
    n_trials: int
    n_failed: int


def score_trials(trials: Sequence[Trial], verdicts: Sequence[Verdict | None]) -> TrialScore:
    """The score of a component's trials.

    Intruder: the share of trials in which the intruder was named. Detection and fuzzing: the mean
    of the shares of true and of false contexts that were recognized, over all trials together. A
    context that is shown in several trials counts once for the width of the interval.

    Args:
        trials: of one component and one method.
        verdicts: for each trial what was answered of each context; None if there is no usable
            answer.
    """
    answered = [
        (trial, verdict)
        for trial, verdict in zip(trials, verdicts, strict=True)
        if verdict is not None
    ]
    n_failed = len(trials) - len(answered)
    if not answered:
        return TrialScore(None, 0, n_failed)
    if answered[0][0].method is Method.INTRUDER:
        hits = sum(trial.truth == verdict for trial, verdict in answered)
        estimate = share(hits, len(answered), _different(answered, truth=False))
        return TrialScore(estimate, len(answered), n_failed)
    pairs = [pair for trial, verdict in answered for pair in zip(trial.truth, verdict, strict=True)]
    of_true = [called for truth, called in pairs if truth]
    of_false = [called for truth, called in pairs if not truth]
    estimate = balanced_accuracy(
        sum(of_true),
        len(of_true),
        len(of_false) - sum(of_false),
        len(of_false),
        different_true=_different(answered, truth=True),
        different_false=_different(answered, truth=False),
    )
    return TrialScore(estimate, len(answered), n_failed)


def _different(answered: Sequence[tuple[Trial, Verdict]], *, truth: bool) -> int:
    """How many different contexts of one kind were shown."""
    return len(
        {
            context.source
            for trial, _ in answered
            for context, is_true in zip(trial.contexts, trial.truth, strict=True)
            if is_true is truth
        }
    )
