"""The question `weights`: what the weights of a component say, without data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import Field

from harvest_assets.decompositions.directions import (
    LOGITS,
    RESIDUAL_STREAM,
    TOKENS,
    Directions,
    HasDirections,
    LayerDirections,
    ResidualStream,
)
from harvest_assets.live.kind import MAX_TOP, Answer, Kind, Question
from harvest_assets.live.opened_run import OpenedRun

if TYPE_CHECKING:
    import torch


class WeightsQuestion(Question):
    """What the weights of a component say.

    Args:
        component: its key.
        top: tokens and components in each list, at most.
    """

    component: str
    top: Annotated[int, Field(ge=1, le=MAX_TOP)] = 10


class TokenValue(Answer):
    """A token with what a direction gives for it."""

    token_id: int
    value: float


class Neighbour(Answer):
    """A component with similar weights.

    Args:
        component: its key.
        cosine: of the two components as matrices, the product of the other two.
        cosine_in: of their input directions.
        cosine_out: of their output directions.
    """

    component: str
    cosine: float
    cosine_in: float
    cosine_out: float


class Side(Answer):
    """What one direction of a component says of tokens.

    Args:
        of: what the layer reads, or writes to.
        highest: tokens of the largest values, falling; all are above 0.
        lowest: tokens of the smallest values, rising; all are below 0.
    """

    of: Literal["residual stream", "tokens", "logits"]
    highest: tuple[TokenValue, ...]
    lowest: tuple[TokenValue, ...]


class WeightsAnswer(Answer):
    """What the weights of a component say.

    Args:
        component: its key.
        target: name of the target's class.
        reads: of its input direction; None where the layer is not known to read the stream.
        writes: of its output direction; None where it is not known to write to the stream.
        same_layer: the components of its layer nearest to it, by the size of the cosine.
        other_layers: those of other layers that have the same widths, and read and write alike.
        n_other_layers: such layers.
    """

    component: str
    target: str
    reads: Side | None
    writes: Side | None
    same_layer: tuple[Neighbour, ...]
    other_layers: tuple[Neighbour, ...]
    n_other_layers: int


def answer_weights(run: OpenedRun, question: WeightsQuestion) -> WeightsAnswer:
    """Compute what the weights of a component say.

    Raises:
        HarvestError: there is no such component, or this is no SPD run.
    """
    import torch

    WEIGHTS.require(run.decomposition.kind, run.paths.root.name)
    run.place(question.component)
    directions = cast("HasDirections", run.model).directions()
    name, _, index = question.component.rpartition(":")
    own = next(layer for layer in directions.layers if layer.name == name)
    with torch.inference_mode():
        return _answer(directions, own, int(index), question)


def _answer(
    directions: Directions, own: LayerDirections, i: int, question: WeightsQuestion
) -> WeightsAnswer:
    others = [it for it in directions.layers if it is not own and _is_alike(it, own)]
    k = question.top
    return WeightsAnswer(
        component=question.component,
        target=directions.target,
        reads=_reads(directions.stream, own, i, k),
        writes=_writes(directions.stream, own, i, k),
        same_layer=_nearest([own], own, i, k),
        other_layers=_nearest(others, own, i, k),
        n_other_layers=len(others),
    )


def _reads(stream: ResidualStream | None, own: LayerDirections, i: int, k: int) -> Side | None:
    if own.reads == TOKENS:
        return _side(TOKENS, own.read[i], k)
    if own.reads != RESIDUAL_STREAM or stream is None or not _fits(stream, own.read):
        return None
    return _side(RESIDUAL_STREAM, stream.embeddings.float() @ own.read[i], k)


def _writes(stream: ResidualStream | None, own: LayerDirections, i: int, k: int) -> Side | None:
    if own.writes == LOGITS:
        return _side(LOGITS, own.write[i], k)
    if own.writes != RESIDUAL_STREAM or stream is None or not _fits(stream, own.write):
        return None
    return _side(RESIDUAL_STREAM, stream.promoted(own.write[i]), k)


def _fits(stream: ResidualStream, directions: torch.Tensor) -> bool:
    """Whether vectors are as wide as the stream and its embeddings."""
    width = directions.shape[1]
    return width == stream.embeddings.shape[1] == stream.unembeddings.shape[1]


def _side(of: Literal["residual stream", "tokens", "logits"], values: torch.Tensor, k: int) -> Side:
    order = values.argsort(descending=True, stable=True).tolist()
    high = [token for token in order[:k] if values[token] > 0]
    low = [token for token in order[::-1][:k] if values[token] < 0]
    return Side(
        of=of,
        highest=tuple(TokenValue(token_id=it, value=float(values[it])) for it in high),
        lowest=tuple(TokenValue(token_id=it, value=float(values[it])) for it in low),
    )


def _is_alike(one: LayerDirections, other: LayerDirections) -> bool:
    """Whether directions of two layers can be compared."""
    same_widths = one.read.shape[1] == other.read.shape[1]
    same_widths = same_widths and one.write.shape[1] == other.write.shape[1]
    return same_widths and (one.reads, one.writes) == (other.reads, other.writes)


def _nearest(
    layers: list[LayerDirections], own: LayerDirections, i: int, k: int
) -> tuple[Neighbour, ...]:
    """The components of some layers nearest to one of `own`, without itself."""
    found = []
    for layer in layers:
        cosine_in = _cosines(layer.read, own.read[i])
        cosine_out = _cosines(layer.write, own.write[i])
        cosine = cosine_in * cosine_out
        sizes = cosine.abs()
        if layer is own:
            sizes[i] = -1
        nearest = sizes.argsort(descending=True, stable=True)[:k].tolist()
        found += [
            Neighbour(
                component=f"{layer.name}:{j}",
                cosine=float(cosine[j]),
                cosine_in=float(cosine_in[j]),
                cosine_out=float(cosine_out[j]),
            )
            for j in nearest
            if sizes[j] > 0
        ]
    return tuple(sorted(found, key=lambda it: -abs(it.cosine))[:k])


def _cosines(vectors: torch.Tensor, one: torch.Tensor) -> torch.Tensor:
    """Cosines of vectors [C, d] with one of them; 0 where a vector is 0."""
    norms: torch.Tensor = vectors.norm(dim=1) * one.norm()
    cosines: torch.Tensor = (vectors @ one) / norms.where(norms > 0, norms.new_ones(()))
    return cosines


WEIGHTS = Kind("weights", WeightsQuestion, WeightsAnswer, answer_weights, spd_only=True)
