"""The trials of a component: contexts, and which of them are the true ones.

A trial is a function of (seed, component, method, number) and of the harvest's result files:
drawing it again gives the same trial. Trials are drawn from the uniform sample of each component's
firings, whose position in the context is known.

1. **Intruder.** Four contexts of the component and one of another, in random order. The other is
   one of the components nearest in density (as a ratio), so that the odd one is not simply the rare
   one.
2. **Detection** of a label. Five contexts in which the component fires at the marked token, and
   five of other components, one from each fifth of all components by density.
3. **Fuzzing** of a label. Seven contexts of the component. In five of them the tokens on which it
   fires are marked, in two as many others. Each is cropped so that the sampled firing is equally
   likely at every place, and at most half of its tokens are marked: neither the place nor the
   number of the marks says which are the true ones.

A context of another component is of no use where this one fires too. Those whose position is in
this component's sample are left out, and components at most of whose firings this one fires too are
avoided: where co-firings were counted, a tenth is the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from harvest_assets.autointerp.draws import Draws
from harvest_assets.autointerp.material import Component, Material
from harvest_assets.schemas import LocatedExample

LABEL_EXAMPLES = 20  # of the sample's first, which a label is made from

_N_OWN, _N_PLACES = 4, 5
_N_POSITIVE = _N_NEGATIVE = 5
_N_MARKED, _N_FALSELY_MARKED = 5, 2
_NEAREST, _MIN_NEAREST = 30, 5
_MIN_TRIALS = 2  # that the examples must be enough for without showing one twice
_MAX_SHARED = 0.1  # of the other component's firings


class Method(StrEnum):
    """How a component, or its label, is tried."""

    INTRUDER = "intruder"
    DETECTION = "detection"
    FUZZING = "fuzzing"

    @property
    def needs_label(self) -> bool:
        """Whether it is a label that is tried."""
        return self is not Method.INTRUDER

    @property
    def n_trials(self) -> int:
        """Trials of one component."""
        return 5 if self.needs_label else 10

    @property
    def chance(self) -> float:
        """The expected score of guessing."""
        return 0.5 if self.needs_label else 1 / _N_PLACES


@dataclass(frozen=True)
class Context:
    """Adjacent tokens of one row, without what is outside the row.

    Args:
        token_ids: of the tokens.
        firing: index of the token whose firing was sampled.
        marked: indices of the tokens that are marked, rising.
        place: row and position of the firing, which say whether two contexts are the same.
    """

    token_ids: tuple[int, ...]
    firing: int
    marked: tuple[int, ...]
    place: tuple[int | None, int | None] = field(default=(None, None), repr=False)

    @property
    def source(self) -> tuple[int | None, ...]:
        """Equal for contexts of the same firing, however they are cropped and marked."""
        return self.token_ids if None in self.place else self.place


@dataclass(frozen=True)
class Trial:
    """One trial.

    Args:
        method: of the trial.
        component_key: of the component that is tried.
        number: of the trial, from 0.
        contexts: in the order in which they are shown.
        truth: for each of them, whether it is the intruder, or whether the component fires there,
            or whether its marks are the true ones.
    """

    method: Method
    component_key: str
    number: int
    contexts: tuple[Context, ...]
    truth: tuple[bool, ...]


def draw_trials(material: Material, component: Component, method: Method, seed: int) -> list[Trial]:
    """The trials of a component; none where it has too few examples, or no other component."""
    draw = _DRAWN_BY[method](material, component)
    found = []
    for number in range(method.n_trials):
        draws = Draws(seed, component.key, method.value, number)
        contexts = draw(draws)
        if contexts is None:
            return []
        order = draws.shuffled(contexts)
        shown, truth = zip(*order, strict=True)
        found.append(Trial(method, component.key, number, shown, truth))
    return found


_Contexts = list[tuple[Context, bool]] | None
_Draw = Callable[[Draws], _Contexts]


def _nothing(_: Draws) -> _Contexts:
    return None


def _intruder(material: Material, component: Component) -> _Draw:
    examples, threshold = material.examples(component.key), material.ci_threshold
    others = _seldom_together(
        material, component, material.nearest_in_density(component, _NEAREST), _MIN_NEAREST
    )
    if len(examples) < _MIN_TRIALS * _N_OWN:
        return _nothing

    def draw(draws: Draws) -> _Contexts:
        own = _spread(draws, examples, _N_OWN)
        odd = _foreign(material, component, others, draws)
        if odd is None:
            return None
        return [(firings_marked(odd, threshold), True)] + [
            (firings_marked(example, threshold), False) for example in own
        ]

    return draw


def _detection(material: Material, component: Component) -> _Draw:
    examples = _held_out(material, component)
    if len(examples) < _MIN_TRIALS * _N_POSITIVE:
        return _nothing
    groups = [
        _seldom_together(material, component, group, 1)
        for group in material.strata(component, _N_NEGATIVE)
    ]

    def draw(draws: Draws) -> _Contexts:
        positive = _spread(draws, examples, _N_POSITIVE)
        negative = [_foreign(material, component, group, draws) for group in groups]
        others = [example for example in negative if example is not None]
        if len(others) < _N_NEGATIVE:
            return None
        return [(_middle_marked(example), True) for example in positive] + [
            (_middle_marked(example), False) for example in others
        ]

    return draw


def _fuzzing(material: Material, component: Component) -> _Draw:
    examples = _held_out(material, component)
    window = max((len(it.token_ids) for it in examples), default=0)
    usable = [
        it for it in examples if _room(firings_marked(it, material.ci_threshold)) > window // 4
    ]
    n = _N_MARKED + _N_FALSELY_MARKED
    if len(usable) < _MIN_TRIALS * n:
        return _nothing

    def draw(draws: Draws) -> _Contexts:
        contexts: list[Context] = []
        for example in _spread(draws, usable):
            context = _cropped(firings_marked(example, material.ci_threshold), draws)
            if 2 * len(context.marked) <= len(context.token_ids):
                contexts.append(context)
            if len(contexts) == n:
                true, false = contexts[:_N_MARKED], contexts[_N_MARKED:]
                return [(it, True) for it in true] + [
                    (_falsely_marked(it, draws), False) for it in false
                ]
        return None

    return draw


_DRAWN_BY: dict[Method, Callable[[Material, Component], _Draw]] = {
    Method.INTRUDER: _intruder,
    Method.DETECTION: _detection,
    Method.FUZZING: _fuzzing,
}


def firings_marked(example: LocatedExample, ci_threshold: float) -> Context:
    """A context with all tokens marked on which the component fires."""
    middle = len(example.token_ids) // 2
    marked = {i for i, ci in enumerate(example.ci_values) if ci > ci_threshold} | {middle}
    return _trimmed(example, marked)


def _middle_marked(example: LocatedExample) -> Context:
    return _trimmed(example, {len(example.token_ids) // 2})


def _trimmed(example: LocatedExample, marked: set[int]) -> Context:
    """A context without what is outside the row; the firing is in the middle until then."""
    token_ids, middle = example.token_ids, len(example.token_ids) // 2
    kept = [i for i, token in enumerate(token_ids) if token >= 0]
    return Context(
        tuple(token_ids[i] for i in kept),
        kept.index(middle),
        tuple(place for place, i in enumerate(kept) if i in marked),
        (example.row, example.position),
    )


def _room(context: Context) -> int:
    """The most tokens that can be shown with the firing at any place among them."""
    return min(context.firing, len(context.token_ids) - 1 - context.firing) + 1


def _cropped(context: Context, draws: Draws) -> Context:
    """As many tokens of a context as it has room for, with the firing at a random place."""
    size = _room(context)
    start = context.firing - draws.below(size)
    return Context(
        context.token_ids[start : start + size],
        context.firing - start,
        tuple(i - start for i in context.marked if start <= i < start + size),
        context.place,
    )


def _falsely_marked(context: Context, draws: Draws) -> Context:
    """The context with as many other tokens marked."""
    others = [i for i in range(len(context.token_ids)) if i not in context.marked]
    marked = sorted(draws.sample(others, len(context.marked)))
    return replace(context, marked=tuple(marked))


def _spread(
    draws: Draws, examples: Sequence[LocatedExample], k: int | None = None
) -> list[LocatedExample]:
    """Examples in random order; those of rows that came before only after all others."""
    rows: set[int] = set()
    first: list[LocatedExample] = []
    later: list[LocatedExample] = []
    for example in draws.shuffled(examples):
        (later if example.row in rows else first).append(example)
        if example.row is not None:
            rows.add(example.row)
    return (first + later)[:k]


def _held_out(material: Material, component: Component) -> Sequence[LocatedExample]:
    """The examples that a label was not made from."""
    return material.examples(component.key)[LABEL_EXAMPLES:]


def _seldom_together(
    material: Material, component: Component, others: Sequence[Component], at_least: int
) -> list[Component]:
    """Those of the others at whose firings the component seldom fires too."""
    shared = material.firings_shared_with(component)[[it.flat_index for it in others]]
    n = max(at_least, int((shared <= _MAX_SHARED).sum()))
    return [others[i] for i in np.argsort(shared, kind="stable")[:n]]


def _is_among(places: AbstractSet[tuple[int | None, int | None]], example: LocatedExample) -> bool:
    return example.row is not None and (example.row, example.position) in places


def _foreign(
    material: Material, component: Component, others: Sequence[Component], draws: Draws
) -> LocatedExample | None:
    """An example of one of the others, where the component is not known to fire."""
    own = material.places(component.key)
    for other in draws.in_turn(others):
        foreign = [e for e in material.examples(other.key) if not _is_among(own, e)]
        if foreign:
            return draws.choice(foreign)
    return None
