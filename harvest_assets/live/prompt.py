"""The question `prompt`: which components fire on a text, and what the model predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from harvest_assets.errors import HarvestError, counted
from harvest_assets.live.kind import MAX_TOP, Answer, Kind, Question
from harvest_assets.live.opened_run import MAX_CHARACTERS, OpenedRun

if TYPE_CHECKING:
    import torch

# An answer is handed on and shown as a whole: so many entries have about 6 MB as JSON.
MAX_ENTRIES = 100_000
_NOT_FINITE = "The model computes a NaN or an infinity for this text."


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
        at: list components and predictions of this position alone, from the end if negative.
        top: components listed for each position, at most.
        predictions: next tokens listed for each position.
    """

    component: str | None = None
    at: int | None = None
    top: Annotated[int, Field(ge=1, le=MAX_TOP)] = 50
    predictions: Annotated[int, Field(ge=1, le=MAX_TOP)] = 10


class Firing(Answer):
    """A component that fires at a position.

    Args:
        component: its key.
        strength: its firing strength.
        second: its second value; None for kinds without one.
    """

    component: str
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
        firing: those of largest strength, falling; empty where another position was asked for.
        predictions: the likeliest next tokens, falling; likewise.
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
        component: its key.
        n_firings: positions at which it fires.
        strength: its largest firing strength.
        position: where it has that.
    """

    component: str
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


def whole_numbers(text: str) -> tuple[int, ...]:
    """Numbers with blanks or commas between them.

    Raises:
        HarvestError: there is none, or something else.
    """
    words = text[:MAX_CHARACTERS].replace(",", " ").split()
    try:
        if not words or len(text) > MAX_CHARACTERS:
            raise ValueError
        return tuple(int(word) for word in words)
    except ValueError:
        raise HarvestError(
            f"{text[:100]!r} is not a list of whole numbers; expected, for example, 12 7 300."
        ) from None


def whole_number(name: str, text: str) -> int:
    """The number in a text.

    Args:
        name: of the value, for the error.
        text: to read.

    Raises:
        HarvestError: it holds something else, or several numbers.
    """
    try:
        return int(text)
    except ValueError:
        raise HarvestError(f"{name} is {text[:100]!r}; expected one whole number.") from None


def answer_prompt(run: OpenedRun, question: PromptQuestion) -> PromptAnswer:
    """Compute a text.

    Raises:
        HarvestError: the text or the component cannot be computed; see `OpenedRun.token_ids`.
    """
    place = None if question.component is None else run.place(question.component)
    token_ids = question.token_ids(run)
    per_position = min(question.top, len(run.component_keys)) + question.predictions
    listed = listed_positions(question.at, len(token_ids), per_position)
    values = _Values.of(run, token_ids)
    positions = tuple(
        PromptPosition(
            token_id=token,
            n_firing=n,
            firing=values.firing(i, question.top) if i in listed else (),
            predictions=values.predictions(i, question.predictions) if i in listed else (),
            strength=None if place is None else float(values.strengths[i, place]),
            second=None if place is None else values.second_at(i, place),
        )
        for i, (token, n) in enumerate(
            zip(token_ids, values.fires.sum(dim=1).tolist(), strict=True)
        )
    )
    return PromptAnswer(
        positions=positions,
        n_components=int(values.fires.any(dim=0).sum()),
        components=text_components(values.keys, values.strengths, values.fires, question.top),
        threshold=run.plan.ci_threshold,
    )


def listed_positions(at: int | None, n: int, per_position: int) -> range:
    """The positions that are listed of a text: all, or the one that was asked for.

    Args:
        at: the position that was asked for, from the end if negative.
        n: tokens of the text.
        per_position: entries that may be listed for a position.

    Raises:
        HarvestError: there is no such position, or the answer would be too long.
    """
    if at is None:
        if n * per_position > MAX_ENTRIES:
            raise HarvestError(
                f"Up to {per_position:,} entries for each of {n:,} tokens are too many; expected "
                f"at most {MAX_ENTRIES:,} in all. Ask for shorter lists (top), or one position "
                "(at)."
            )
        return range(n)
    if not -n <= at < n:
        raise HarvestError(
            f"There is no position {at} in a text of {counted(n, 'token')}; expected 0 to {n - 1}."
        )
    return range(at % n, at % n + 1)


@dataclass(frozen=True)
class _Values:
    """What the model computes for a text of S tokens: in float32 on the CPU, but probabilities."""

    keys: list[str]
    probabilities: torch.Tensor  # [S, V], where they were computed
    strengths: torch.Tensor  # [S, C]
    seconds: torch.Tensor | None  # [S, C]
    fires: torch.Tensor  # bool [S, C]

    @classmethod
    def of(cls, run: OpenedRun, token_ids: list[int]) -> _Values:
        import torch

        computed = run.activations(token_ids)
        second = computed.second_values
        strengths = computed.firing_strengths[0].float().cpu()
        if not strengths.sum(dtype=torch.float64).isfinite():
            raise HarvestError(_NOT_FINITE)
        return cls(
            run.component_keys,
            computed.output_probs[0],
            strengths,
            None if second is None else second[0].float().cpu(),
            strengths > run.plan.ci_threshold,
        )

    def second_at(self, position: int, place: int) -> float | None:
        return None if self.seconds is None else float(self.seconds[position, place])

    def firing(self, position: int, top: int) -> tuple[Firing, ...]:
        """The strongest components that fire at a position, of equal ones the larger second value.

        Causal importances saturate, so that many are equal.
        """
        row = self.strengths[position]
        places = self.fires[position].nonzero()[:, 0]
        if self.seconds is not None:
            sizes = self.seconds[position, places].abs()
            places = places[sizes.argsort(descending=True, stable=True)]
        kept = places[row[places].argsort(descending=True, stable=True)[:top]].tolist()
        return tuple(
            Firing(
                component=self.keys[place],
                strength=float(row[place]),
                second=self.second_at(position, place),
            )
            for place in kept
        )

    def predictions(self, position: int, k: int) -> tuple[Prediction, ...]:
        """The likeliest next tokens after a position."""
        row = self.probabilities[position].float()
        if not row.isfinite().all():
            raise HarvestError(_NOT_FINITE)
        return likeliest(row, k)


def likeliest(probabilities: torch.Tensor, k: int) -> tuple[Prediction, ...]:
    """The k tokens of largest probability [V], falling."""
    top = probabilities.topk(min(k, len(probabilities)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return tuple(Prediction(token_id=i, probability=p) for i, p in pairs)


def text_components(
    keys: list[str], strengths: torch.Tensor, fires: torch.Tensor, top: int
) -> tuple[TextComponent, ...]:
    """The components that fire most strongly on a text, by the sum over its positions.

    Args:
        keys: of the C components.
        strengths: float [S, C].
        fires: bool [S, C], on the same device.
        top: listed at most.
    """
    fired = strengths.where(fires, strengths.new_zeros(()))
    counts, sums = fires.sum(dim=0), fired.sum(dim=0)
    places = counts.nonzero()[:, 0]
    kept = places[sums[places].argsort(descending=True, stable=True)[:top]]
    best = fired[:, kept].max(dim=0)
    columns = (kept, counts[kept], best.values, best.indices)
    return tuple(
        TextComponent(component=keys[c], n_firings=n, strength=s, position=p)
        for c, n, s, p in zip(*(column.tolist() for column in columns), strict=True)
    )


PROMPT = Kind("prompt", PromptQuestion, PromptAnswer, answer_prompt)
