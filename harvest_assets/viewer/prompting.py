"""The page of a text of one's own: which components fire, and what is predicted."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import urlencode
from weakref import WeakKeyDictionary

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.sanitize import presentable
from harvest_assets.live.prompt import MAX_TOP, PROMPT, PromptAnswer, PromptQuestion, whole_numbers
from harvest_assets.viewer.answering import PATIENCE_SECONDS, asks_again
from harvest_assets.viewer.asking import Asking
from harvest_assets.viewer.examples import SHADES, ComponentExamples
from harvest_assets.viewer.harvest import Harvest
from harvest_assets.viewer.library import Library
from harvest_assets.viewer.portrait import shown_tokens
from harvest_assets.viewer.prompted import DescribedFiring, DescribedPrompt, described
from harvest_assets.viewer.rendering import html_page
from harvest_assets.viewer.typicality import Typicality
from harvest_assets.viewer.view_query import join, run_path

if TYPE_CHECKING:
    from harvest_assets.data.vocabulary import ShownToken


@dataclass(frozen=True)
class PromptQuery:
    """The choices of the page, as fields of its address; those of a second text end in `_b`.

    Args:
        text: to compute.
        ids: token ids instead of a text, with blanks or commas between them.
        at: the position whose components are listed; None: the last.
        component: key of the component that shades the tokens.
        top: components listed.
    """

    text: str = ""
    ids: str = ""
    at: str = ""
    text_b: str = ""
    ids_b: str = ""
    at_b: str = ""
    component: str = ""
    top: str = ""

    @classmethod
    def of(cls, params: Mapping[str, str]) -> Self:
        """The choices in an address."""
        # Browsers send line breaks of forms as CR LF.
        given = {f.name: params.get(f.name, "") for f in dataclasses.fields(cls)}
        return cls(**{name: text.replace("\r\n", "\n") for name, text in given.items()})

    def params(self, **changes: object) -> str:
        """The query string, without what is blank."""
        fields = {**dataclasses.asdict(self), **changes}
        return urlencode({name: value for name, value in fields.items() if value != ""})

    @property
    def sides(self) -> list[str]:
        """The suffixes of the texts that were given."""
        return [side for side in ("", "_b") if self._of(side, "text") or self._of(side, "ids")]

    def question(self, side: str) -> PromptQuestion:
        """What is asked about one of the texts.

        Raises:
            HarvestError: a number is none, or both a text and ids are given.
        """
        ids, at = self._of(side, "ids"), self._of(side, "at")
        top = {"top": whole_numbers(self.top)[0]} if self.top.strip() else {}
        return PromptQuestion(
            text=self._of(side, "text") or None,
            ids=whole_numbers(ids) if ids else None,
            component=self.component.strip() or None,
            at=whole_numbers(at)[0] if at.strip() else -1,
            **top,
        )

    def _of(self, side: str, name: str) -> str:
        value: str = getattr(self, f"{name}{side}")
        return value


@dataclass(frozen=True)
class _Token:
    """A token of the text on the page; `shade` is 0 (none) to `SHADES`."""

    shown: ShownToken
    title: str
    shade: int
    negative: bool


@dataclass(frozen=True)
class _Scale:
    """The value of the deepest shade, that of the component's examples or of the texts."""

    scale: float
    has_negative: bool


@dataclass(frozen=True)
class _Side:
    """One of the texts: its answer, or why there is none."""

    suffix: str
    error: str | None = None
    prompt: DescribedPrompt | None = None
    at: int = 0
    tokens: tuple[_Token, ...] = ()
    layers: tuple[tuple[str, list[DescribedFiring]], ...] = ()

    @property
    def is_waiting(self) -> bool:
        """Whether the answer is not there yet."""
        return self.error is None and self.prompt is None


class Prompting:
    """Answers requests about texts from the harvests of a library.

    Args:
        library: the harvests.
        asking: asks the models.
    """

    def __init__(self, library: Library, asking: Asking) -> None:
        self._library = library
        self._asking = asking
        self._typicalities: WeakKeyDictionary[Harvest, Typicality] = WeakKeyDictionary()

    async def page(self, request: Request) -> Response:
        """One or two texts, with the components that fire on them."""
        harvest = await run_in_threadpool(self._library.get, request.path_params["run"])
        query = PromptQuery.of(request.query_params)
        is_open = self._asking.is_open(HarvestLayout.of(harvest.name))
        sides = await asyncio.gather(*(self._side(harvest, query, it) for it in query.sides))
        return await run_in_threadpool(self._rendered, harvest, query, sides, is_open=is_open)

    async def _answer(
        self, harvest: Harvest, question: PromptQuestion, seconds: float | None
    ) -> PromptAnswer | None:
        return await self._asking.answer(HarvestLayout.of(harvest.name), PROMPT, question, seconds)

    async def _side(self, harvest: Harvest, query: PromptQuery, suffix: str) -> _Side:
        try:
            question = query.question(suffix)
            answer = await self._answer(harvest, question, PATIENCE_SECONDS)
        except HarvestError as error:
            return _Side(suffix, presentable(str(error), 1000))
        if answer is None:
            return _Side(suffix)
        prompt = await run_in_threadpool(self.described, harvest, answer, question.component)
        at = (question.at or 0) % len(prompt.positions)
        return _Side(
            suffix, None, prompt, at, layers=_by_layer(harvest, prompt.positions[at].firing)
        )

    def described(
        self, harvest: Harvest, answer: PromptAnswer, component: str | None
    ) -> DescribedPrompt:
        """An answer with what the harvest knows of its components."""
        typicality = self._typicalities.setdefault(harvest, Typicality(harvest))
        return described(harvest, typicality, answer, component)

    def _rendered(
        self, harvest: Harvest, query: PromptQuery, sides: list[_Side], *, is_open: bool
    ) -> Response:
        path = run_path(harvest.name, "prompt")
        scale = _scale(harvest, query.component.strip(), sides)
        shown = [
            dataclasses.replace(side, tokens=tuple(_tokens(harvest, side, scale))) for side in sides
        ]
        is_waiting = any(side.is_waiting for side in sides)
        response = html_page(
            "prompt.html",
            400 if sides and all(side.error for side in sides) else 200,
            harvest=harvest,
            prompt_query=query,
            sides=shown,
            scale=scale,
            max_top=MAX_TOP,
            is_waiting=is_waiting,
            is_open=is_open,
            shown_tokens=lambda key: shown_tokens(harvest, harvest.places[key]),
            address=lambda **changes: join(path, query.params(**changes)),
            path=path,
        )
        return asks_again(response) if is_waiting else response


def _by_layer(
    harvest: Harvest, firing: tuple[DescribedFiring, ...]
) -> tuple[tuple[str, list[DescribedFiring]], ...]:
    """Components by layer, in the order of the harvest's layers."""
    layers: dict[str, list[DescribedFiring]] = {name: [] for name in harvest.layers["layer"]}
    for it in firing:
        layers.setdefault(it.layer, []).append(it)
    return tuple((name, found) for name, found in layers.items() if found)


def _scale(harvest: Harvest, component: str, sides: list[_Side]) -> _Scale | None:
    """The scale of the shades; None where no component was chosen, or nothing is shown."""
    prompts = [side.prompt for side in sides if side.prompt is not None]
    if not prompts or not component:
        return None
    values = [it.strength or 0.0 for prompt in prompts for it in prompt.positions]
    place = harvest.places.get(component)
    examples = [] if place is None else [ComponentExamples(harvest, place, "ci").scale]
    return _Scale(max([*map(abs, values), *examples]) or 1.0, min(values) < 0)


def _tokens(harvest: Harvest, side: _Side, scale: _Scale | None) -> list[_Token]:
    if side.prompt is None:
        return []
    shown = harvest.vocabulary.shown_context(side.prompt.token_ids, side.at)
    tokens = []
    for token, position in zip(shown, side.prompt.positions, strict=True):
        title = f"{position.n_firing:,} components fire; token {position.token_id}"
        value = position.strength or 0.0
        shade = 0 if scale is None else math.ceil(SHADES * min(1.0, abs(value) / scale.scale))
        if scale is not None:
            title = f"{harvest.words.short} {value:.4g}; {title}"
        tokens.append(_Token(token, title, shade, value < 0))
    return tokens
