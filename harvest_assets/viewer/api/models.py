"""What the endpoints answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from harvest_assets.viewer.contexts.search import HITS_PER_PAGE

if TYPE_CHECKING:
    from harvest_assets.viewer.contexts.search import Found


class Answer(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class Problem(Answer):
    """What is wrong with a request."""

    status: int
    error: str = Field(description="one sentence")


class Working(Answer):
    """The answer is being computed; ask again."""

    share: float = Field(description="how much of it is done, from 0 to 1")


class HarvestLine(Answer):
    """A harvest of this machine."""

    name: str = Field(description="its folder, which addresses it")
    key: str | None = Field(description="entity/project/run_id, and @name of a further harvest")
    condition: str
    n_components: int | None
    tokens: int | None = Field(description="positions saved")
    tokens_wanted: int | None = Field(description="positions of the whole harvest")
    n_bytes: int
    modified: str = Field(description="UTC")
    problem: str = Field(description="what is wrong, in a sentence; empty if nothing is")


class Layer(Answer):
    """A decomposed layer."""

    layer: str
    components: int
    alive: int = Field(description="components that fired")
    l0: float = Field(description="components that fire per token")


class Overview(Answer):
    """A harvest."""

    name: str
    run: str
    n_tokens: int = Field(description="positions seen")
    n_components: int
    alive: int = Field(description="components that fired")
    progress: float | None = Field(description="share of the rows saved; null when complete")
    counts_cofirings: bool = Field(description="whether co-firings were counted")
    example_orders: list[str] = Field(description="the lists of examples that there are")
    firing_strength: str = Field(description="what `ci` is called in this harvest")
    second_value: str | None = Field(description="what `act` is called, if it is kept")
    warnings: list[str]
    layers: list[Layer]
    config: dict[str, Any]


class Token(Answer):
    """A token; bytes of a character that other tokens complete are escaped."""

    id: int
    text: str


class ComponentRow(Answer):
    """A row of the table of components."""

    key: str
    layer: str
    firing_count: int
    density: float = Field(description="firings per token")
    mean_ci: float = Field(description="over all positions")
    informativeness: float | None
    reads: list[Token] = Field(description="tokens that a firing is most informative about")
    predicts: list[Token]
    label: str | None
    starred: bool
    tags: list[str]


class ComponentsPage(Answer):
    """Components that match, in order."""

    n: int = Field(description="how many match")
    page: int
    n_pages: int
    components: list[ComponentRow]


class ScoredToken(Answer):
    """A token with which a component fires, or that the model then predicts."""

    token: Token
    count: float = Field(description="occurrences, or the sum of probabilities")
    recall: float
    precision: float
    lift: float
    pmi: float


class FiresWith(Answer):
    """A component that fires together with another."""

    key: str
    together: int = Field(description="positions at which both fired")
    jaccard: float
    precision: float
    recall: float
    pmi: float


class Example(Answer):
    """A window of tokens around a firing, which is in the middle; outside the row ids are -1."""

    row: int | None
    position: int | None = Field(description="of the firing; null where not recorded")
    token_ids: list[int]
    texts: list[str]
    ci: list[float]
    act: list[float]


class Examples(Answer):
    """A page of a list of examples."""

    order: Literal["sample", "ci", "activation"]
    n: int
    page: int
    n_pages: int
    examples: list[Example]


class Component(ComponentRow):
    """All about one component."""

    mean_ci_firing: float = Field(description="over its firings")
    rank: int = Field(description="by firings, in its layer")
    layer_components: int
    ci_histogram: list[int] | None = Field(description="64 bins; null where not kept")
    reads_scored: list[ScoredToken]
    predicts_scored: list[ScoredToken]
    fires_with: list[FiresWith] | None = Field(description="null where not counted")
    examples: Examples
    note: str | None
    scores: dict[str, float] = Field(description="of its label, by method")


class ContextHit(Answer):
    """A place where the text occurs."""

    row: int | None
    position: int | None = Field(description="of the first token; null where not recorded")
    left: str
    text: str
    right: str
    components: dict[str, float] = Field(description="highest `ci` in the hit, of the first 12")
    n_components: int


class OftenThere(Answer):
    """A component that fires in many of the places."""

    key: str
    hits: int
    ci: float = Field(description="mean of its highest in each")


class Contexts(Answer):
    """Where a text occurs in the contexts that were kept."""

    n: int
    more: bool = Field(description="whether there are more, which were not counted")
    page: int
    n_pages: int
    hits: list[ContextHit]
    often: list[OftenThere]

    @classmethod
    def of(cls, found: Found, page: int) -> Self:
        """What a search found, as the values of page `page`."""
        return cls(
            n=found.n,
            more=found.more,
            page=page,
            n_pages=max(1, -(-found.n // HITS_PER_PAGE)),
            hits=[
                ContextHit(
                    row=hit.row,
                    position=hit.position,
                    left=hit.texts[0],
                    text=hit.texts[1],
                    right=hit.texts[2],
                    components={there.key: there.ci for there in hit.components},
                    n_components=hit.n_components,
                )
                for hit in found.hits
            ],
            often=[OftenThere.model_validate(it) for it in found.often],
        )


class MapGroup(Answer):
    """Components of one colour."""

    name: str
    colour: str = Field(description="in CSS")
    n: int


class Map(Answer):
    """The components that fired, near those that they fire with; lists are of equal length."""

    keys: list[str]
    x: list[float] = Field(description="from 0 to 1")
    y: list[float]
    group: list[int] = Field(description="a place in `groups`")
    groups: list[MapGroup]
    tokens: list[str] = Field(description="what it reads and predicts, as pages show it")
