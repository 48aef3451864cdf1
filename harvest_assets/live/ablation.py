"""The question `ablate`: what the model predicts for a text with components taken out.

The formulas are in `docs/asking.md`. Which components fire, and the causal importances that the
CI-masked model is masked by, come from one pass of the unmodified model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field, field_validator, model_validator

from harvest_assets.decompositions.protocol import HasMaskedForward
from harvest_assets.errors import HarvestError
from harvest_assets.live.kind import MAX_TOP, Answer, Kind
from harvest_assets.live.opened_run import OpenedRun
from harvest_assets.live.prompt import (
    Prediction,
    TextComponent,
    TextQuestion,
    likeliest,
    listed_positions,
    text_components,
)
from harvest_assets.store.preflight import require_memory_to_ablate
from harvest_assets.store.resource_estimate import POSITIONS_AT_ONCE

if TYPE_CHECKING:
    import torch

_LISTS = 7  # of a position: likeliest tokens of three models, gains and losses of two


def split_keys(texts: Iterable[str]) -> tuple[str, ...]:
    """Keys of components, each once, from texts with blanks or commas between them."""
    return tuple(dict.fromkeys(key for text in texts for key in text.replace(",", " ").split()))


class AblateQuestion(TextQuestion):
    """What is predicted with a part of the components; at most one choice of them is given.

    Args:
        without: keys of those that are taken out, also several in a text (`split_keys`); the rest
            of the weights stays.
        only: keys of those that are kept, likewise.
        only_firing: keep those that fire, at each position.
        with_rest: whether what no component explains stays too, in the model of those that are kept
            and in the CI-masked one.
        at: list tokens of this position alone, from the end if negative.
        at_largest: where `at` is not given, list tokens alone where the KL divergence is largest.
        top: tokens in each list.
    """

    without: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    only_firing: bool = False
    with_rest: bool = False
    at: int | None = None
    at_largest: bool = False
    top: Annotated[int, Field(ge=1, le=MAX_TOP)] = 10

    @model_validator(mode="before")
    @classmethod
    def _is_one_choice(cls, values: Any) -> Any:
        if sum(bool(values.get(name)) for name in ("without", "only", "only_firing")) > 1:
            raise HarvestError("Give one of without, only and only_firing.")
        return values

    @field_validator("without", "only")
    @classmethod
    def _split(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        return split_keys(texts)


class TokenChange(Answer):
    """A next token with its probability before and after the change."""

    token_id: int
    before: float
    after: float


class ChangedPosition(Answer):
    """What a changed model predicts after a position.

    Args:
        kl: KL divergence of the full model's prediction from this one, in nats.
        predictions: the likeliest next tokens, falling; empty where another position was asked for.
        gains: next tokens whose probability grows most, by how much; likewise.
        losses: next tokens whose probability falls most, by how much; likewise.
    """

    kl: float
    predictions: tuple[Prediction, ...]
    gains: tuple[TokenChange, ...]
    losses: tuple[TokenChange, ...]


class ChangedModel(Answer):
    """What a changed model predicts.

    Args:
        mean_kl: over the positions.
        positions: of the text, in order.
    """

    mean_kl: float
    positions: tuple[ChangedPosition, ...]


class FullPosition(Answer):
    """A token of the text, and what the full model predicts after it.

    Args:
        token_id: the token.
        n_firing: components that fire here.
        predictions: the likeliest next tokens, falling; empty where another position was asked for.
    """

    token_id: int
    n_firing: int
    predictions: tuple[Prediction, ...]


class AblateAnswer(Answer):
    """Predictions of the full model and of changed ones.

    Args:
        positions: the tokens of the text with the full model's predictions.
        changed: with the components that were chosen; None where none were.
        ci_masked: with each component times its causal importance.
        n_components: components that fire somewhere on the text.
        firing: those of the largest sum of causal importances, falling.
    """

    positions: tuple[FullPosition, ...]
    changed: ChangedModel | None
    ci_masked: ChangedModel
    n_components: int
    firing: tuple[TextComponent, ...]


def answer_ablation(run: OpenedRun, question: AblateQuestion) -> AblateAnswer:
    """Compute a text with a part of the components.

    Raises:
        HarvestError: the text or a component cannot be computed, or components of this kind cannot
            be taken out.
    """
    import torch

    ABLATE.require(run.decomposition.kind, run.paths.root.name)
    chosen = [run.place(key) for key in (*question.without, *question.only)]
    token_ids = question.token_ids(run)
    listed = None
    if question.at is not None or not question.at_largest:
        per_position = _LISTS * min(question.top, run.decomposition.vocab_size)
        listed = listed_positions(question.at, len(token_ids), per_position)
    model = cast("HasMaskedForward", run.model)
    require_memory_to_ablate(run.decomposition, len(token_ids))
    ci = run.activations(token_ids).firing_strengths[0].float()
    fires = ci > run.plan.ci_threshold

    row = torch.tensor([token_ids], dtype=torch.int64)
    full = _log_probs(model, row, None, with_rest=True)
    compared = _Comparison(model, row, question.top, full, listed)
    mask, changed = _mask(question, chosen, fires), None
    if mask is not None:
        with_rest = question.with_rest or bool(question.without)
        changed = compared.with_mask(mask, with_rest=with_rest)
    ci_masked = compared.with_mask(ci[None], with_rest=question.with_rest)
    return AblateAnswer(
        positions=tuple(
            FullPosition(token_id=token, n_firing=n, predictions=compared.of_full(i))
            for i, (token, n) in enumerate(zip(token_ids, fires.sum(dim=1).tolist(), strict=True))
        ),
        changed=changed,
        ci_masked=ci_masked,
        n_components=int(fires.any(dim=0).sum()),
        firing=text_components(run.component_keys, ci, fires, MAX_TOP),
    )


@dataclass
class _Comparison:
    """Compares changed models with the full one; of one of them at a time, all predictions."""

    model: HasMaskedForward
    row: torch.Tensor  # int64 [1, S]
    top: int
    full: torch.Tensor  # log-probabilities [S, V]
    listed: range | None  # positions; None: where the first changed model differs most

    def with_mask(self, mask: torch.Tensor, *, with_rest: bool) -> ChangedModel:
        """What is predicted with a mask [C] or [1, S, C]."""
        changed = _log_probs(self.model, self.row, mask, with_rest=with_rest)
        kl = _kl(self.full, changed)
        if self.listed is None:
            largest = kl.index(max(kl))
            self.listed = range(largest, largest + 1)
        return ChangedModel(
            mean_kl=sum(kl) / len(kl),
            positions=tuple(
                _changed_position(value, self.full[i], changed[i], self.top)
                if i in self.listed
                else ChangedPosition(kl=value, predictions=(), gains=(), losses=())
                for i, value in enumerate(kl)
            ),
        )

    def of_full(self, position: int) -> tuple[Prediction, ...]:
        """The likeliest tokens of the full model; empty for a position that is not listed."""
        is_listed = self.listed is not None and position in self.listed
        return likeliest(self.full[position].exp(), self.top) if is_listed else ()


def _log_probs(
    model: HasMaskedForward, row: torch.Tensor, mask: torch.Tensor | None, *, with_rest: bool
) -> torch.Tensor:
    found = model.masked(row, mask, with_rest=with_rest)[0].cpu()
    if not found.isfinite().all():
        raise HarvestError("The model computes a NaN or an infinity for this text.")
    return found


def _mask(question: AblateQuestion, chosen: list[int], fires: torch.Tensor) -> torch.Tensor | None:
    """The mask [C] or [1, S, C] of the components that were chosen; None where none were."""
    import torch

    if question.only_firing:
        return fires[None]
    if not chosen:
        return None
    is_chosen = torch.zeros(fires.shape[1], dtype=torch.bool, device=fires.device)
    is_chosen[chosen] = True
    return ~is_chosen if question.without else is_chosen


def _kl(full: torch.Tensor, changed: torch.Tensor) -> list[float]:
    """KL(full || changed) of each position, in nats; rounding alone would make it negative."""
    values: list[float] = []
    for first in range(0, len(full), POSITIONS_AT_ONCE):
        places = slice(first, first + POSITIONS_AT_ONCE)
        p, q = full[places].double(), changed[places].double()
        values += (p.exp() * (p - q)).sum(dim=1).clamp(min=0).tolist()
    return values


def _changed_position(
    kl: float, full: torch.Tensor, changed: torch.Tensor, top: int
) -> ChangedPosition:
    before, after = full.exp(), changed.exp()
    grown = after - before

    def changes(sign: int) -> tuple[TokenChange, ...]:
        most = (sign * grown).topk(min(top, len(grown)))
        tokens = most.indices[most.values > 0]
        rows = zip(tokens.tolist(), before[tokens].tolist(), after[tokens].tolist(), strict=True)
        return tuple(TokenChange(token_id=it, before=old, after=new) for it, old, new in rows)

    return ChangedPosition(
        kl=kl, predictions=likeliest(after, top), gains=changes(1), losses=changes(-1)
    )


ABLATE = Kind("ablate", AblateQuestion, AblateAnswer, answer_ablation, spd_only=True)
