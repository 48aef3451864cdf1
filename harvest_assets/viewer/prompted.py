"""What a model computes for a text, with what the harvest knows of its components: plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from harvest_assets.viewer.interpreted import interpreted

if TYPE_CHECKING:
    from harvest_assets.live.prompt import Firing, PromptAnswer, PromptPosition
    from harvest_assets.viewer.harvest import Harvest

_TOKENS = 3


class _Described(BaseModel):
    model_config = ConfigDict(frozen=True)


class DescribedComponent(_Described):
    """A component that fires.

    Args:
        component: its key.
        layer: its layer.
        label: its label; None if there is none.
        reads, predicts: the tokens that its firing is most informative about.
    """

    component: str
    layer: str
    label: str | None
    reads: tuple[str, ...]
    predicts: tuple[str, ...]


class DescribedFiring(DescribedComponent):
    """A component that fires at a position.

    Args:
        strength: its firing strength.
        second: its second value; None for kinds without one.
        percentile: the share of its harvested firings that are weaker, plus half of those that are
            as strong, 0 to 1; None where not known.
    """

    strength: float
    second: float | None
    percentile: float | None


class DescribedTextComponent(DescribedComponent):
    """A component that fires somewhere on the text.

    Args:
        n_firings: positions at which it fires.
        strength: its largest firing strength.
        position: where it has that.
    """

    n_firings: int
    strength: float
    position: int


class DescribedPrediction(_Described):
    """A next token with its probability."""

    token: str
    token_id: int
    probability: float


class DescribedPosition(_Described):
    """A token of the text.

    Args:
        token: as the pages show it by itself.
        token_id: its id.
        n_firing: components that fire here.
        firing: those of largest strength, falling; empty where another position was asked for.
        predictions: the likeliest next tokens, falling; likewise.
        strength, second: of the component that was asked for; None where none was.
    """

    token: str
    token_id: int
    n_firing: int
    firing: tuple[DescribedFiring, ...]
    predictions: tuple[DescribedPrediction, ...]
    strength: float | None
    second: float | None


class DescribedPrompt(_Described):
    """What happens on a text.

    Args:
        run: the run by the name that people use.
        component: key of the component whose values each position has; None if none was asked for.
        firing_strength: what the firing strength is, in words.
        second_value: what the second value is; None if there is none.
        threshold: a component fires where its strength is strictly above.
        n_components: components that fire somewhere on the text.
        components: those of the largest sum of strengths, falling.
        positions: its tokens, in order.
    """

    run: str
    component: str | None
    firing_strength: str
    second_value: str | None
    threshold: float
    n_components: int
    components: tuple[DescribedTextComponent, ...]
    positions: tuple[DescribedPosition, ...]

    @property
    def token_ids(self) -> list[int]:
        """The tokens of the text."""
        return [position.token_id for position in self.positions]


def described(harvest: Harvest, answer: PromptAnswer, component: str | None) -> DescribedPrompt:
    """An answer with the tokens, labels and percentiles of a harvest.

    Args:
        harvest: of the run that was asked.
        answer: of the question `prompt`.
        component: that was asked for.
    """
    describe = _Describer(harvest)
    return DescribedPrompt(
        run=harvest.run,
        component=component,
        firing_strength=harvest.words.long,
        second_value=harvest.words.second,
        threshold=answer.threshold,
        n_components=answer.n_components,
        components=tuple(
            DescribedTextComponent(
                **describe.known(it.component),
                n_firings=it.n_firings,
                strength=it.strength,
                position=it.position,
            )
            for it in answer.components
        ),
        positions=tuple(map(describe.position, answer.positions)),
    )


class _Describer:
    """Looks up what a harvest knows, of each component once."""

    def __init__(self, harvest: Harvest) -> None:
        self._harvest = harvest
        self._written = interpreted(harvest)
        self._known: dict[str, dict[str, Any]] = {}

    def known(self, key: str) -> dict[str, Any]:
        """The fields of `DescribedComponent`; the results may lack a component of the run."""
        if key not in self._known:
            place = self._harvest.places.get(key)
            reads, predicts = ((), ()) if place is None else self._tokens(place)
            self._known[key] = {
                "component": key,
                "layer": key.rpartition(":")[0],
                "label": None if place is None else self._written.of(place)["label"],
                "reads": reads,
                "predicts": predicts,
            }
        return self._known[key]

    def _tokens(self, place: int) -> tuple[tuple[str, ...], ...]:
        text = self._harvest.vocabulary.text
        lists = self._harvest.informative_tokens(place)
        return tuple(tuple(text(token) for token in tokens[:_TOKENS]) for tokens in lists)

    def position(self, position: PromptPosition) -> DescribedPosition:
        """A token of the text."""
        text = self._harvest.vocabulary.text
        return DescribedPosition(
            token=text(position.token_id),
            token_id=position.token_id,
            n_firing=position.n_firing,
            firing=tuple(map(self._firing, position.firing)),
            predictions=tuple(
                DescribedPrediction(
                    token=text(it.token_id), token_id=it.token_id, probability=it.probability
                )
                for it in position.predictions
            ),
            strength=position.strength,
            second=position.second,
        )

    def _firing(self, firing: Firing) -> DescribedFiring:
        place = self._harvest.places.get(firing.component)
        return DescribedFiring(
            **self.known(firing.component),
            strength=firing.strength,
            second=firing.second,
            percentile=None
            if place is None
            else self._harvest.typicality.percentile(place, firing.strength),
        )
