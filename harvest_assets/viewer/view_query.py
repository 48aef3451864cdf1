"""The view of a component: every choice on its page is a parameter of the address."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlencode

from harvest_assets.viewer.examples import ExampleChoice, Shade
from harvest_assets.viewer.portrait import FIRING_SORTS, TOKEN_SORTS

if TYPE_CHECKING:
    from harvest_assets.viewer.harvest import Harvest

_CHOICES: dict[str, tuple[str, ...]] = {
    "reads_by": TOKEN_SORTS,
    "predicts_by": ("pmi", "recall", "precision", "lift", "bottom"),
    "fires_by": FIRING_SORTS,
    "examples": ("sample", "ci", "activation", "intervals"),
    "shade": ("ci", "act"),
    "lines": ("aligned", "full"),
}


@dataclass(frozen=True)
class ViewQuery:
    """The choices of a component's page; the first of each is the default."""

    reads_by: str = "recall"
    predicts_by: str = "pmi"
    fires_by: str = "jaccard"
    examples: ExampleChoice = "sample"
    shade: Shade = "ci"
    lines: str = "aligned"
    page: int = 1

    @classmethod
    def of(cls, params: Mapping[str, str]) -> Self:
        """The choices in an address; the default where one is unknown or missing."""
        chosen: dict[str, Any] = {
            name: params[name] for name, known in _CHOICES.items() if params.get(name) in known
        }
        return cls(**chosen, page=page_of(params))

    def params(self, **changes: object) -> str:
        """The query string, without defaults."""
        fields = {**dataclasses.asdict(self), **changes}
        defaults = dataclasses.asdict(ViewQuery())
        return urlencode({k: v for k, v in fields.items() if v != defaults[k]})


def example_choices(*harvests: Harvest) -> list[tuple[ExampleChoice, str]]:
    """The choices of examples that all harvests have, with their names on the page."""
    names: dict[ExampleChoice, str] = {
        "sample": "random",
        "ci": f"highest {harvests[0].words.short}",
        "activation": f"largest {harvests[0].words.second}",
        "intervals": "by interval",
    }
    if not all("activation" in it.example_orders and it.words.second for it in harvests):
        del names["activation"]
    return list(names.items())


def page_of(params: Mapping[str, str]) -> int:
    """The number of the page, from 1."""
    text = params.get("page", "1")
    return max(1, int(text)) if text.isdecimal() and len(text) < 10 else 1  # noqa: PLR2004


def join(path: str, *queries: str) -> str:
    """A path with query strings, some of which may be empty."""
    query = "&".join(q for q in queries if q)
    return f"{path}{'&' if '?' in path else '?'}{query}" if query else path


def run_path(name: str, *parts: str) -> str:
    """The path of a harvest's page."""
    return "/".join(["/run", *(quote(part, safe=":") for part in (name, *parts))])


def component_path(name: str, key: str) -> str:
    """The path of a component's page."""
    return run_path(name, "component", key)


def compare_path(run_a: str, a: str, run_b: str, b: str) -> str:
    """The address of two components side by side."""
    return join("/compare", urlencode({"run_a": run_a, "a": a, "run_b": run_b, "b": b}))


def methods_path(run_a: str, run_b: str, **choices: object) -> str:
    """The address of two harvests side by side; choices that are empty are left out."""
    chosen = {name: value for name, value in choices.items() if value not in ("", 1)}
    return join("/methods", urlencode({"run_a": run_a, "run_b": run_b, **chosen}))
