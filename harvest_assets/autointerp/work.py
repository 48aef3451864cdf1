"""The questions about the components of a harvest, and the scores that follow from the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harvest_assets.autointerp.answers import AnswerBook, Question
from harvest_assets.autointerp.material import Component
from harvest_assets.autointerp.replies import LabelReply, verdict_of
from harvest_assets.autointerp.scoring import TrialScore, Verdict, score_trials
from harvest_assets.autointerp.trials import Trial
from harvest_assets.errors import HarvestError
from harvest_assets.interpretations.entries import Label, Score, sha256_of_text

AUTHOR = "harvest_assets"  # of scores without a language model


@dataclass(frozen=True)
class TrialWork:
    """The trials of one component by one method.

    Args:
        component: that is tried.
        trials: of it.
        questions: one for each trial.
        label: that is tried; None for intruder trials.
    """

    component: Component
    trials: list[Trial]
    questions: list[Question]
    label: str | None

    def entry(self, book: AnswerBook) -> Score | None:
        """The score, once each trial has an answer; None until then, or if none is usable."""
        if any(book.get(question) is None for question in self.questions):
            return None
        replies = [book.reply(question) for question in self.questions]
        verdicts = [
            None if reply is None else verdict_of(reply, trial)
            for reply, trial in zip(replies, self.trials, strict=True)
        ]
        prompts = sha256_of_text("".join(question.prompt.sha256 for question in self.questions))
        return score_entry(
            self.trials, verdicts, self.trials[0].method.value, book.model, prompts, self.label
        )


@dataclass(frozen=True)
class LabelWork:
    """The question that asks for the label of one component."""

    component: Component
    questions: list[Question]

    def entry(self, book: AnswerBook) -> Label | None:
        """The label; None without a usable answer."""
        question = self.questions[0]
        reply = book.reply(question)
        if not isinstance(reply, LabelReply):
            return None
        try:
            return Label(
                component_key=self.component.key,
                label=reply.label,
                confidence=reply.confidence,
                reason=reply.reason,
                source="model",
                author=book.model,
                prompt_sha256=question.prompt.sha256,
            )
        except HarvestError:  # too long once what cannot be printed is written out
            return None


Work = TrialWork | LabelWork


def score_entry(
    trials: Sequence[Trial],
    verdicts: Sequence[Verdict | None],
    method: str,
    author: str,
    prompts: str | None,
    label: str | None = None,
) -> Score | None:
    """The score of trials as it is stored; None if no verdict is usable."""
    found: TrialScore = score_trials(trials, verdicts)
    if found.estimate is None:
        return None
    return Score(
        component_key=trials[0].component_key,
        method=method,
        score=found.estimate.score,
        low=found.estimate.low,
        high=found.estimate.high,
        chance=trials[0].method.chance,
        n_trials=found.n_trials,
        n_failed=found.n_failed,
        author=author,
        prompt_sha256=prompts,
        label_sha256=None if label is None else sha256_of_text(label),
    )
