"""The question `prompt`: which components fire on a text, and what the model predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from harvest_assets.errors import HarvestError
from harvest_assets.live.kind import Answer, Kind, Question
from harvest_assets.live.opened_run import OpenedRun

if TYPE_CHECKING:
    import torch

    from harvest_assets.harvester.stream import Activations

MAX_TOP = 1000


class TextQuestion(Question):
    """A text, or the ids of its tokens.

    Args:
        text: tokenized as the rows of the harvest were.
        ids: token ids, instead of a text.
    """

    text: str | None = None
    ids: tuple[int, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_one_text(cls, values: Any) -> Any:
        text = values.get("text")
        if (text is None) == (values.get("ids") is None):
            raise HarvestError("Give either a text or token ids.")
        if isinstance(text, str):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                bad = f"U+{ord(text[error.start]):04X} at character {error.start:,}"
                raise HarvestError(
                    f"The text is not valid Unicode: it has {bad}; expected UTF-8."
                ) from None
        return values

    def token_ids(self, run: OpenedRun) -> list[int]:
        """The tokens that are asked about; see `OpenedRun.token_ids`."""
        return run.token_ids(self.text, self.ids)


class PromptQuestion(TextQuestion):
    """Which components fire on a text.

    Args:
        component: key of one whose values are wanted at every position.
        top: components listed for each position, at most.
        predictions: next tokens listed for each position.
    """

    component: str | None = None
    top: Annotated[int, Field(ge=1, le=MAX_TOP)] = 50
    predictions: Annotated[int, Field(ge=1, le=MAX_TOP)] = 10


class Firing(Answer):
    """A component that fires at a position.

    Args:
        component: its flat index.
        strength: its firing strength.
        second: its second value; None for kinds without one.
    """

    component: int
    strength: float
    second: float | None


class Prediction(Answer):
    """A next token with its probability."""

    token_id: int
    probability: float


class PromptPosition(Answer):
    """A token of the text.

    Args:
        token_id: the token.
        n_firing: components that fire here.
        firing: those of largest strength, falling.
        predictions: the likeliest next tokens, falling.
        strength, second: of the component that was asked for; None where none was.
    """

    token_id: int
    n_firing: int
    firing: tuple[Firing, ...]
    predictions: tuple[Prediction, ...]
    strength: float | None = None
    second: float | None = None


class TextComponent(Answer):
    """A component that fires somewhere on the text.

    Args:
        component: its flat index.
        n_firings: positions at which it fires.
        strength: its largest firing strength.
        position: where it has that.
    """

    component: int
    n_firings: int
    strength: float
    position: int


class PromptAnswer(Answer):
    """What happens on a text.

    Args:
        positions: its tokens, in order.
        n_components: components that fire somewhere on it.
        components: those of the largest sum of strengths, falling.
        threshold: a component fires where its strength is strictly above.
    """

    positions: tuple[PromptPosition, ...]
    n_components: int
    components: tuple[TextComponent, ...]
    threshold: float


def answer_prompt(run: OpenedRun, question: PromptQuestion) -> PromptAnswer:
    """Compute a text.

    Raises:
        HarvestError: the text or the component cannot be computed; see `OpenedRun.token_ids`.
    """
    place = None if question.component is None else run.place(question.component)
    token_ids = question.token_ids(run)
    activations = run.activations(token_ids)
    strengths = activations.firing_strengths[0].float().cpu()
    second = activations.second_values
    values = None if second is None else second[0].float().cpu()
    fires = strengths > run.plan.ci_threshold
    firing = _firing(strengths, values, fires, question.top)
    predictions = _predictions(activations, question.predictions)
    chosen = [None] * len(token_ids) if place is None else strengths[:, place].tolist()
    chosen_second = [None] * len(token_ids)
    if place is not None and values is not None:
        chosen_second = values[:, place].tolist()
    positions = tuple(
        PromptPosition(
            token_id=token,
            n_firing=n,
            firing=firing[i],
            predictions=predictions[i],
            strength=chosen[i],
            second=chosen_second[i],
        )
        for i, (token, n) in enumerate(zip(token_ids, fires.sum(dim=1).tolist(), strict=True))
    )
    return PromptAnswer(
        positions=positions,
        n_components=int(fires.any(dim=0).sum()),
        components=_text_components(strengths, fires, question.top),
        threshold=run.plan.ci_threshold,
    )


def _firing(
    strengths: torch.Tensor, values: torch.Tensor | None, fires: torch.Tensor, top: int
) -> list[tuple[Firing, ...]]:
    """The components that fire at each position, the strongest first, equal ones in flat order."""
    found = []
    for position, row in enumerate(strengths):
        places = fires[position].nonzero()[:, 0]
        order = row[places].argsort(descending=True, stable=True)[:top]
        kept = places[order]
        seconds = [None] * len(kept) if values is None else values[position, kept].tolist()
        rows = zip(kept.tolist(), row[kept].tolist(), seconds, strict=True)
        found.append(tuple(Firing(component=c, strength=s, second=v) for c, s, v in rows))
    return found


def _predictions(activations: Activations, k: int) -> list[tuple[Prediction, ...]]:
    probabilities = activations.output_probs[0].float()
    top = probabilities.topk(min(k, probabilities.shape[1]), dim=1)
    return [
        tuple(Prediction(token_id=i, probability=p) for i, p in zip(ids, values, strict=True))
        for ids, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


def _text_components(
    strengths: torch.Tensor, fires: torch.Tensor, top: int
) -> tuple[TextComponent, ...]:
    fired = strengths.where(fires, strengths.new_zeros(()))
    counts, sums = fires.sum(dim=0), fired.sum(dim=0)
    places = counts.nonzero()[:, 0]
    kept = places[sums[places].argsort(descending=True, stable=True)[:top]]
    best = fired[:, kept].max(dim=0)
    rows = zip(
        kept.tolist(),
        counts[kept].tolist(),
        best.values.tolist(),
        best.indices.tolist(),
        strict=True,
    )
    return tuple(
        TextComponent(component=c, n_firings=n, strength=s, position=p) for c, n, s, p in rows
    )


PROMPT = Kind("prompt", PromptQuestion, PromptAnswer, answer_prompt)
