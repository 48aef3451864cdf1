"""The page of a text whose model lacks components."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from harvest_assets.errors import HarvestError, counted
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.sanitize import presentable
from harvest_assets.interpretations.lists import list_titles, open_list
from harvest_assets.live.ablation import (
    ABLATE,
    AblateAnswer,
    AblateQuestion,
    ChangedModel,
    split_keys,
)
from harvest_assets.live.prompt import whole_number, whole_numbers
from harvest_assets.viewer.answering import AskedPages, kind_of, knows
from harvest_assets.viewer.examples import SHADES
from harvest_assets.viewer.harvest import Harvest
from harvest_assets.viewer.rendering import html_page
from harvest_assets.viewer.view_query import join, run_path

if TYPE_CHECKING:
    from harvest_assets.data.vocabulary import ShownToken

MODES = {
    "without": "take out the chosen ones",
    "only": "keep only the chosen ones",
    "firing": "keep only those that fire, at each position",
}
_NO_DIFFERENCE = 1e-9  # nats
_MAX_NAMED = 2  # components in a heading


@dataclass(frozen=True)
class AblateQuery:
    """The choices of the page, as fields of its address.

    Args:
        text: to compute.
        ids: token ids instead of a text, with blanks or commas between them.
        at: the position whose tokens are listed; blank: where the prediction changes most.
        mode: one of `MODES`.
        keys: of the components that were chosen; in the address as `key`, `without` or `only`.
        listed: name of a list whose components are chosen too, in the address `list`.
        with_rest: "1" if what no component explains stays in; what was given if it is not valid.
    """

    text: str = ""
    ids: str = ""
    at: str = ""
    mode: str = "without"
    keys: tuple[str, ...] = ()
    listed: str = ""
    with_rest: str = ""

    @classmethod
    def of(cls, params: QueryParams) -> Self:
        """The choices in an address."""
        named = [name for name in ("without", "only") if name in params]
        only_firing = _switch(params, "only_firing")
        if only_firing:
            named.append("firing" if only_firing == "1" else f"only_firing={only_firing}")
        modes = [*params.getlist("mode"), *named] or ["without"]
        typed = [key for name in ("key", "without", "only") for key in params.getlist(name)]
        return cls(
            # Browsers send line breaks of forms as CR LF.
            text=params.get("text", "").replace("\r\n", "\n"),
            ids=params.get("ids", ""),
            at=params.get("at", "").strip(),
            mode=" and ".join(modes),
            keys=split_keys(typed),
            listed=params.get("list", ""),
            with_rest=_switch(params, "with_rest"),
        )

    def params(self, **changes: str) -> str:
        """The query string, without what is blank."""
        fields = {
            "text": self.text,
            "ids": self.ids,
            "at": self.at,
            "mode": self.mode if self.mode != "without" else "",
            "list": self.listed,
            "with_rest": self.with_rest,
            **changes,
        }
        given = [(name, value) for name, value in fields.items() if value]
        return urlencode([*given, *(("key", key) for key in self.keys)])

    def question(self, harvest: Harvest) -> AblateQuestion:
        """What is asked.

        Raises:
            HarvestError: a number is not valid, there is no such list, or choices contradict each
                other.
        """
        if self.mode not in MODES:
            raise HarvestError(
                f"{self.mode[:100]!r} is not a valid mode; expected one of {', '.join(MODES)}."
            )
        if self.mode == "firing" and (self.keys or self.listed):
            raise HarvestError(
                "Components are chosen, but what fires is to be kept; untick the components, or "
                "choose another mode."
            )
        if self.with_rest not in ("", "1"):
            raise HarvestError(f"with_rest is {self.with_rest[:100]!r}; expected 1 or 0.")
        keys = self.keys
        if self.listed:
            keys += open_list(HarvestLayout.of(harvest.name), self.listed).component_keys
        return AblateQuestion(
            text=self.text or None,
            ids=whole_numbers(self.ids) if self.ids else None,
            without=keys if self.mode == "without" else (),
            only=keys if self.mode == "only" else (),
            only_firing=self.mode == "firing",
            with_rest=self.with_rest == "1",
            at=whole_number("at", self.at) if self.at else None,
            at_largest=True,
        )


@dataclass(frozen=True)
class _Token:
    """A token of the text; `shade` is 0 (none) to `SHADES`."""

    shown: ShownToken
    kl: float
    shade: int


class AblatePages(AskedPages):
    """Answers requests about texts without components from the harvests of a library."""

    async def page(self, request: Request) -> Response:
        """A text with components taken out."""
        harvest = await self.harvest(request)
        query = AblateQuery.of(request.query_params)
        is_open = self.is_open(harvest)
        answer, error = None, _refusal(harvest)
        if error is None and (query.text or query.ids):
            try:
                question = await run_in_threadpool(query.question, harvest)
                answer, error = await self.answer(harvest, ABLATE, question)
            except HarvestError as wrong:
                error = presentable(str(wrong), 1000)
        return await run_in_threadpool(_rendered, harvest, query, answer, error, is_open=is_open)


def _refusal(harvest: Harvest) -> str | None:
    """Why components of a harvest cannot be taken out, if so."""
    try:
        ABLATE.require(kind_of(harvest), harvest.name)
    except HarvestError as error:
        return presentable(str(error), 1000)
    return None


def _switch(params: Mapping[str, str], name: str) -> str:
    """Whether something is on, as "1" or blank; what was given if it is neither on nor off."""
    given = params.get(name, "")
    return {"0": "", "false": "", "true": "1", "on": "1"}.get(given.lower(), given)


def _rendered(
    harvest: Harvest,
    query: AblateQuery,
    answer: AblateAnswer | None,
    error: str | None,
    *,
    is_open: bool,
) -> Response:
    is_waiting = bool(query.text or query.ids) and answer is None and error is None
    path = run_path(harvest.name, "ablate")

    return html_page(
        "ablate.html",
        200 if error is None else 400,
        harvest=harvest,
        ablate_query=query,
        unlisted=_unlisted(query, answer),
        modes=MODES,
        lists=list_titles(HarvestLayout.of(harvest.name)),
        answer=answer,
        error=error,
        is_waiting=is_waiting,
        is_open=is_open,
        has_form=_refusal(harvest) is None,
        known=knows(harvest),
        address=lambda **changes: join(path, query.params(**changes)),
        path=path,
        **({} if answer is None else _shown(harvest, answer, *_names(query))),
    )


def _unlisted(query: AblateQuery, answer: AblateAnswer | None) -> list[str]:
    """The chosen components that have no box to tick: those that do not fire on the text."""
    fire = set() if answer is None else {it.component for it in answer.firing}
    return [key for key in query.keys if key not in fire]


def _names(query: AblateQuery) -> tuple[str, str]:
    """What distinguishes the changed and the CI-masked model, in words."""
    rest = ", with the rest" if query.with_rest else ""
    if query.mode == "firing":
        return f"only those that fire{rest}", f"CI-masked{rest}"
    keys = query.keys
    chosen = [*keys] if len(keys) <= _MAX_NAMED else [counted(len(keys), "component")]
    chosen += ["the list"] if query.listed else []
    changed = f"{query.mode} {' and '.join(chosen)}"
    return changed + (rest if query.mode == "only" else ""), f"CI-masked{rest}"


def _shown(
    harvest: Harvest, answer: AblateAnswer, changed: str, ci_masked: str
) -> dict[str, object]:
    """What the page shows of an answer: its tokens shaded, and the position that is listed.

    Args:
        harvest: of the run that was asked.
        answer: of the question `ablate`.
        changed: name of the changed model.
        ci_masked: of the CI-masked one.
    """
    models = [(ci_masked, answer.ci_masked)]
    if answer.changed is not None:
        models.insert(0, (changed, answer.changed))
    at = next(i for i, it in enumerate(answer.positions) if it.predictions)
    highest = max(it.kl for _, model in models for it in model.positions)
    return {
        "at": at,
        "highest": highest,
        "models": [(name, model, model.positions[at]) for name, model in models],
        "texts": [(name, _tokens(harvest, answer, model, at, highest)) for name, model in models],
    }


def _tokens(
    harvest: Harvest, answer: AblateAnswer, model: ChangedModel, at: int, highest: float
) -> list[_Token]:
    shown = harvest.vocabulary.shown_context([it.token_id for it in answer.positions], at)
    scale = SHADES / highest if highest > _NO_DIFFERENCE else 0.0
    return [
        _Token(token, it.kl, math.ceil(scale * it.kl))
        for token, it in zip(shown, model.positions, strict=True)
    ]
