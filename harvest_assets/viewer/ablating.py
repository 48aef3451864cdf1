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
from harvest_assets.live.ablation import ABLATE, AblateAnswer, AblateQuestion, ChangedModel
from harvest_assets.live.prompt import whole_numbers
from harvest_assets.viewer.answering import AskedPages, asks_again, knows
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
        with_rest: whether what no component explains stays in.
    """

    text: str = ""
    ids: str = ""
    at: str = ""
    mode: str = "without"
    keys: tuple[str, ...] = ()
    listed: str = ""
    with_rest: bool = False

    @classmethod
    def of(cls, params: QueryParams) -> Self:
        """The choices in an address."""
        named = [name for name in ("without", "only") if name in params]
        named += ["firing"] if _is_on(params, "only_firing") else []
        modes = [*params.getlist("mode"), *named] or ["without"]
        typed = [key for name in ("key", "without", "only") for key in params.getlist(name)]
        keys = [key for text in typed for key in text.replace(",", " ").split()]
        return cls(
            # Browsers send line breaks of forms as CR LF.
            text=params.get("text", "").replace("\r\n", "\n"),
            ids=params.get("ids", ""),
            at=params.get("at", "").strip(),
            mode=" and ".join(modes),
            keys=tuple(dict.fromkeys(keys)),
            listed=params.get("list", ""),
            with_rest=_is_on(params, "with_rest"),
        )

    def params(self, **changes: str) -> str:
        """The query string, without what is blank."""
        fields = {
            "text": self.text,
            "ids": self.ids,
            "at": self.at,
            "mode": self.mode if self.mode != "without" else "",
            "list": self.listed,
            "with_rest": "1" if self.with_rest else "",
            **changes,
        }
        given = [(name, value) for name, value in fields.items() if value]
        return urlencode([*given, *(("key", key) for key in self.keys)])

    def question(self, harvest: Harvest) -> AblateQuestion:
        """What is asked.

        Raises:
            HarvestError: a number is none, there is no such list, both a text and ids are given,
                or not exactly one mode.
        """
        if self.mode not in MODES:
            raise HarvestError(
                f"{self.mode[:100]!r} is not a valid mode; expected one of {', '.join(MODES)}."
            )
        keys = self.keys
        if self.listed:
            keys += open_list(HarvestLayout.of(harvest.name), self.listed).component_keys
        return AblateQuestion(
            text=self.text or None,
            ids=whole_numbers(self.ids) if self.ids else None,
            without=keys if self.mode == "without" else (),
            only=keys if self.mode == "only" else (),
            only_firing=self.mode == "firing",
            with_rest=self.with_rest,
            at=whole_numbers(self.at)[0] if self.at else None,
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
        answer, error = None, None
        if query.text or query.ids:
            try:
                question = await run_in_threadpool(query.question, harvest)
                answer, error = await self.answer(harvest, ABLATE, question)
            except HarvestError as wrong:
                error = presentable(str(wrong), 1000)
        return await run_in_threadpool(_rendered, harvest, query, answer, error, is_open=is_open)


def _is_on(params: Mapping[str, str], name: str) -> bool:
    return params.get(name, "") not in ("", "0", "false")


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

    response = html_page(
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
        known=knows(harvest),
        address=lambda **changes: join(path, query.params(**changes)),
        path=path,
        **({} if answer is None else _shown(harvest, answer, *_names(query))),
    )
    return asks_again(response) if is_waiting else response


def _unlisted(query: AblateQuery, answer: AblateAnswer | None) -> list[str]:
    """The chosen components that have no box to tick: those that do not fire on the text."""
    fire = set() if answer is None else {it.component for it in answer.firing}
    return [key for key in query.keys if key not in fire]


def _names(query: AblateQuery) -> tuple[str, str]:
    """What distinguishes the changed and the CI-masked model, in words."""
    rest = ", with the rest" if query.with_rest else ""
    if query.mode == "firing":
        return f"only those that fire{rest}", f"CI-masked{rest}"
    chosen = [counted(len(query.keys), "component")] if query.keys else []
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
