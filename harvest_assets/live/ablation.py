"""The question `ablate`: what the model predicts for a text with components taken out.

The formulas are in `docs/asking.md`. Which components fire, and the causal importances that the
CI-masked model is masked by, come from one pass of the unmodified model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from harvest_assets.decompositions.protocol import HasMaskedForward
from harvest_assets.errors import HarvestError
from harvest_assets.live.kind import Answer, Kind
from harvest_assets.live.opened_run import OpenedRun
from harvest_assets.live.prompt import MAX_TOP, Prediction, TextQuestion, listed_positions

if TYPE_CHECKING:
    import torch

_POSITIONS_AT_ONCE = 64  # in float64


class AblateQuestion(TextQuestion):
    """What is predicted with a part of the components; at most one choice of them is given.

    Args:
        without: keys of those that are taken out; the rest of the weights stays.
        only: keys of those that are kept.
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


class FiringComponent(Answer):
    """A component that fires on the text.

    Args:
        component: its key.
        n_firings: positions at which it fires.
        strength: its largest causal importance.
    """

    component: str
    n_firings: int
    strength: float


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
    firing: tuple[FiringComponent, ...]


def answer_ablation(run: OpenedRun, question: AblateQuestion) -> AblateAnswer:
    """Compute a text with a part of the components.

    Raises:
        HarvestError: the text or a component cannot be computed, or components of this kind cannot
            be taken out.
    """
    import torch

    chosen = [run.place(key) for key in (*question.without, *question.only)]
    token_ids = question.token_ids(run)
    listed = listed_positions(question.at, len(token_ids))
    row = torch.tensor([token_ids], dtype=torch.int64)
    model = _maskable(run)
    ci = run.activations(token_ids).firing_strengths[0].float()
    fires = ci > run.plan.ci_threshold

    def log_probs(mask: torch.Tensor | None, *, with_rest: bool) -> torch.Tensor:
        found = model.masked(row, mask, with_rest=with_rest)[0].cpu()
        if not found.isfinite().all():
            raise HarvestError("The model computes a NaN or an infinity for this text.")
        return found

    full, changed = log_probs(None, with_rest=True), None
    ci_masked = log_probs(ci[None], with_rest=question.with_rest)
    mask = _mask(question, chosen, fires)
    if mask is not None:
        changed = log_probs(mask, with_rest=question.with_rest or bool(question.without))
    if question.at is None and question.at_largest:
        kl = _kl(full, ci_masked if changed is None else changed)
        listed = listed_positions(kl.index(max(kl)), len(kl))
    return AblateAnswer(
        positions=tuple(
            FullPosition(
                token_id=token,
                n_firing=n,
                predictions=_likeliest(full[i], question.top) if i in listed else (),
            )
            for i, (token, n) in enumerate(zip(token_ids, fires.sum(dim=1).tolist(), strict=True))
        ),
        changed=None if changed is None else _compared(full, changed, listed, question.top),
        ci_masked=_compared(full, ci_masked, listed, question.top),
        n_components=int(fires.any(dim=0).sum()),
        firing=_firing(run.component_keys, ci.cpu(), fires.cpu()),
    )


def _maskable(run: OpenedRun) -> HasMaskedForward:
    model: object = run.model
    if not isinstance(model, HasMaskedForward):
        raise HarvestError(
            f"Components can be taken out of the model for SPD runs only; {run.paths.root.name} is "
            f"of the kind {run.decomposition.kind!r}."
        )
    return model


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


def _compared(full: torch.Tensor, changed: torch.Tensor, listed: range, top: int) -> ChangedModel:
    """Compare two models by the log-probabilities [S, V] of their next tokens."""
    kl = _kl(full, changed)
    return ChangedModel(
        mean_kl=sum(kl) / len(kl),
        positions=tuple(
            _changed_position(value, full[i], changed[i], top)
            if i in listed
            else ChangedPosition(kl=value, predictions=(), gains=(), losses=())
            for i, value in enumerate(kl)
        ),
    )


def _kl(full: torch.Tensor, changed: torch.Tensor) -> list[float]:
    """KL(full || changed) of each position, in nats; rounding alone would make it negative."""
    values: list[float] = []
    for first in range(0, len(full), _POSITIONS_AT_ONCE):
        places = slice(first, first + _POSITIONS_AT_ONCE)
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
        kl=kl, predictions=_likeliest(changed, top), gains=changes(1), losses=changes(-1)
    )


def _likeliest(log_probs: torch.Tensor, top: int) -> tuple[Prediction, ...]:
    best = log_probs.exp().topk(min(top, len(log_probs)))
    return tuple(
        Prediction(token_id=token, probability=p)
        for token, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )


def _firing(keys: list[str], ci: torch.Tensor, fires: torch.Tensor) -> tuple[FiringComponent, ...]:
    """The components that fire on the text, by the sum of their causal importances."""
    fired = ci.where(fires, ci.new_zeros(()))
    sums, highest = fired.sum(dim=0), fired.max(dim=0).values.tolist()
    counts = fires.sum(dim=0).tolist()
    order = sums.argsort(descending=True, stable=True).tolist()
    return tuple(
        FiringComponent(component=keys[i], n_firings=counts[i], strength=highest[i])
        for i in [i for i in order if counts[i]][:MAX_TOP]
    )


ABLATE = Kind("ablate", AblateQuestion, AblateAnswer, answer_ablation)
