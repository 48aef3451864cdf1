"""Trials hold what they say they hold, and are the same in any process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from hashlib import sha256

import pytest

from harvest_assets.autointerp.draws import Draws
from harvest_assets.autointerp.material import Material
from harvest_assets.autointerp.settings import ComponentChoice
from harvest_assets.autointerp.trials import Context, Method, Trial, draw_trials
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets_tests.autointerp import print_trials
from harvest_assets_tests.autointerp.one_token_each import FIRINGS, KEYS, N_COMPONENTS, N_TOKENS
from harvest_assets_tests.autointerp.print_trials import all_trials


def trials_of(material: Material, method: Method, seed: int = 0) -> list[Trial]:
    return [
        trial
        for component in material.components.values()
        for trial in draw_trials(material, component, method, seed)
    ]


def own_token(trial: Trial) -> int:
    return KEYS.index(trial.component_key)


def fired_on(context: Context) -> int:
    return context.token_ids[context.firing]


def is_part_of(tokens: tuple[int, ...], whole: set[tuple[int, ...]]) -> bool:
    n = len(tokens)
    return any(tokens == it[i : i + n] for it in whole for i in range(len(it) - n + 1))


def examples_of(material: Material, key: str, *, first: int) -> set[tuple[int, ...]]:
    """The tokens of the first examples of a component, without those outside the row."""
    return {
        tuple(token for token in example.token_ids if token >= 0)
        for example in material.examples(key)[:first]
    }


def test_an_intruder_is_the_one_context_of_another_component(material: Material):
    trials = trials_of(material, Method.INTRUDER)
    assert len(trials) == 10 * N_COMPONENTS
    for trial in trials:
        assert len(trial.contexts) == 5
        is_foreign = tuple(fired_on(context) != own_token(trial) for context in trial.contexts)
        assert trial.truth == is_foreign
        assert sum(is_foreign) == 1
    places = Counter(trial.truth.index(True) for trial in trials)
    assert all(places[place] > 8 for place in range(5))


@pytest.mark.parametrize("method", [Method.INTRUDER, Method.FUZZING])
def test_marks_are_where_the_component_fires(material: Material, method: Method):
    for trial in trials_of(material, method):
        for context, truth in zip(trial.contexts, trial.truth, strict=True):
            token = fired_on(context)
            fires = tuple(i for i, it in enumerate(context.token_ids) if it == token)
            if truth or method is Method.INTRUDER:
                assert context.marked == fires
            else:
                assert not set(context.marked) & set(fires)
                assert len(context.marked) == len(fires)


def test_fuzzing_shows_five_true_and_two_false_marks(material: Material):
    for trial in trials_of(material, Method.FUZZING):
        assert Counter(trial.truth) == {True: 5, False: 2}
        assert {fired_on(context) for context in trial.contexts} == {own_token(trial)}


def test_where_and_how_many_marks_there_are_does_not_say_which_are_true(material: Material):
    said: dict[tuple[str, bool], list[bool]] = {}
    for seed in range(5):
        for trial in trials_of(material, Method.FUZZING, seed):
            for context, truth in zip(trial.contexts, trial.truth, strict=True):
                n = len(context.token_ids)
                assert 2 * len(context.marked) <= n
                for name, place in (("first", 0), ("middle", n // 2), ("last", n - 1)):
                    said.setdefault((name, truth), []).append(place in context.marked)
    for name in ("first", "middle", "last"):
        true, false = said[name, True], said[name, False]
        balanced = (sum(true) / len(true) + 1 - sum(false) / len(false)) / 2
        assert abs(balanced - 0.5) < 0.06


def test_detection_takes_negatives_from_each_fifth_of_the_densities(material: Material):
    for trial in trials_of(material, Method.DETECTION):
        own = own_token(trial)
        others = [i for i in sorted(range(N_COMPONENTS), key=FIRINGS.__getitem__) if i != own]
        negative = [fired_on(c) for c, t in zip(trial.contexts, trial.truth, strict=True) if not t]
        positive = [fired_on(c) for c, t in zip(trial.contexts, trial.truth, strict=True) if t]
        assert positive == [own] * 5
        ranks = sorted(others.index(token) for token in negative)
        # The seven others are in groups of one or two.
        assert all(group <= rank <= 2 * group + 1 for group, rank in enumerate(ranks))
        assert len(set(ranks)) == 5
        assert all(context.marked == (context.firing,) for context in trial.contexts)


def test_labels_are_tried_on_examples_they_were_not_made_from(material: Material):
    for method in (Method.DETECTION, Method.FUZZING):
        for trial in trials_of(material, method):
            shown = examples_of(material, trial.component_key, first=20)
            positive = [c.token_ids for c, t in zip(trial.contexts, trial.truth, strict=True) if t]
            assert not [tokens for tokens in positive if is_part_of(tokens, shown)]


@pytest.mark.parametrize(
    ("method", "enough"), [(Method.INTRUDER, 8), (Method.DETECTION, 30), (Method.FUZZING, 48)]
)
def test_components_need_examples_for_two_trials(
    finished: HarvestLayout, method: Method, enough: int, monkeypatch: pytest.MonkeyPatch
):
    # Every second example has no room for fuzzing.
    for n, possible in ((enough, True), (enough - 1, False)):
        monkeypatch.setattr("harvest_assets.autointerp.material._EXAMPLES", n)
        assert bool(trials_of(Material(finished), method)) is possible


@pytest.mark.slow
def test_trials_are_the_same_in_another_process(finished: HarvestLayout, material: Material):
    done = subprocess.run(
        [sys.executable, "-m", print_trials.__name__, str(finished.root)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "123"},
    )
    here = all_trials(material, 7)
    assert json.loads(done.stdout) == here
    assert here != all_trials(material, 8)


def test_draws_are_fixed_and_even():
    seed = ("h.0.mlp:7", 3)
    draws = Draws(*seed)
    hashed = [sha256(repr(seed).encode() + n.to_bytes(8, "big")).digest() for n in range(4)]
    assert [draws.below(1000) for _ in range(4)] == [
        int.from_bytes(digest[:8], "big") % 1000 for digest in hashed
    ]
    counts = Counter(draws.below(7) for _ in range(7000))
    assert all(850 < counts[i] < 1150 for i in range(7))
    first = Counter(Draws(i).sample("abcde", 2)[0] for i in range(1000))
    assert all(140 < first[letter] < 260 for letter in "abcde")
    assert sorted(draws.shuffled(range(50))) == list(range(50))
    assert Draws(1).shuffled(range(50)) == list(Draws(1).in_turn(range(50)))


def test_candidates_are_drawn_one_at_a_time(monkeypatch: pytest.MonkeyPatch):
    drawn = 0
    below = Draws.below

    def counted(draws: Draws, n: int) -> int:
        nonlocal drawn
        drawn += 1
        return below(draws, n)

    monkeypatch.setattr(Draws, "below", counted)
    next(Draws(0).in_turn(range(100_000)))
    assert drawn == 1


def test_components_are_chosen_by_layer_density_and_number(material: Material):
    def chosen(**choice: object) -> list[str]:
        return [it.key for it in material.choose(ComponentChoice(**choice))]

    assert chosen() == KEYS
    assert chosen(layers=("h.1.*",)) == KEYS[1::2]
    assert chosen(min_density=100 / N_TOKENS, max_density=200 / N_TOKENS) == KEYS[1:4]
    few = chosen(components=3)
    assert len(few) == 3
    assert set(few) < set(chosen(components=6))  # a higher limit keeps what was chosen
    assert few != chosen(components=3, seed=1)
    with pytest.raises(HarvestError, match="layers"):
        chosen(layers=("h.9",))


def test_the_nearest_in_density_are_those_of_smallest_ratio(material: Material):
    for component in material.components.values():
        others = [it for it in material.components.values() if it != component]

        def ratio(other, density=component.density):
            return max(other.density / density, density / other.density)

        nearest = material.nearest_in_density(component, 4)
        assert len(nearest) == 4
        assert max(map(ratio, nearest)) <= min(ratio(it) for it in others if it not in nearest)
