"""The solvers without a language model."""

from __future__ import annotations

import math

import numpy as np

from harvest_assets.autointerp.baseline import embedding_solver, token_solver
from harvest_assets.autointerp.baseline_task import run_baseline
from harvest_assets.autointerp.material import Material
from harvest_assets.autointerp.settings import ComponentChoice
from harvest_assets.autointerp.trials import Context, Method, Trial, draw_trials
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets_tests.autointerp.one_token_each import KEYS, N_TOKENS, TEXTS


def all_trials(material: Material) -> list[Trial]:
    return [
        trial
        for component in material.components.values()
        for trial in draw_trials(material, component, Method.INTRUDER, 0)
    ]


def test_components_that_fire_on_one_token_score_one(paths: HarvestLayout):
    report = run_baseline(paths, ComponentChoice())
    assert report.scores == {"intruder_tokens": [1.0] * len(KEYS)}
    assert any("run_checkpoint.json" in note for note in report.notes)  # no embeddings without it
    scores = Interpretations(paths).scores()
    assert scores["component_key"].to_list() == KEYS
    assert set(scores["chance"]) == {0.2}
    assert set(scores["n_trials"]) == {10}
    again = run_baseline(paths, ComponentChoice())
    assert (again.stored, again.already) == (0, len(KEYS))
    assert len(Interpretations(paths).scores()) == len(KEYS)
    run_baseline(paths, ComponentChoice(seed=1))
    assert run_baseline(paths, ComponentChoice()).stored == len(KEYS)  # the newest are of seed 1


def cosine(a: dict[int, float], b: dict[int, float]) -> float:
    def dot(x: dict[int, float], y: dict[int, float]) -> float:
        return sum(value * y.get(key, 0.0) for key, value in x.items())

    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def vector(context: Context, rarity: float) -> dict[int, float]:
    found: dict[int, float] = {}
    for i, token in enumerate(context.token_ids):
        distance = min(abs(i - marked) for marked in context.marked)
        found[token] = found.get(token, 0.0) + rarity / (1 + distance) ** 2
    length = math.sqrt(sum(value * value for value in found.values()))
    return {token: value / length for token, value in found.items()}


def test_the_solver_by_tokens_is_what_plain_loops_give(material: Material):
    solver = token_solver(np.full(len(TEXTS), N_TOKENS / len(TEXTS)), 0)
    for trial in all_trials(material)[:40]:
        vectors = [vector(context, math.log(len(TEXTS))) for context in trial.contexts]
        likeness = []
        for i, own in enumerate(vectors):
            rest: dict[int, float] = {}
            for other in vectors[:i] + vectors[i + 1 :]:
                for token, value in other.items():
                    rest[token] = rest.get(token, 0.0) + value
            likeness.append(cosine(own, rest))
        assert solver.solve(trial).index(True) == likeness.index(min(likeness))


def test_embeddings_see_that_different_tokens_are_alike():
    # Tokens 0 to 3 point one way, 4 to 7 another; no token comes twice.
    embeddings = np.array([[1.0, 0.1 * i] for i in range(4)] + [[-1.0, 0.1 * i] for i in range(4)])
    contexts = tuple(Context((token,), 0, (0,)) for token in (0, 1, 5, 2, 3))
    truth = (False, False, True, False, False)
    trial = Trial(Method.INTRUDER, "h:0", 0, contexts, truth)
    assert embedding_solver(embeddings, 0).solve(trial) == truth


def test_equals_are_drawn_at_chance():
    contexts = tuple(Context((token,), 0, (0,)) for token in range(5))  # nothing in common
    solver = token_solver(np.ones(5), 0)
    truth = (True, False, False, False, False)
    trials = [Trial(Method.INTRUDER, "h:0", n, contexts, truth) for n in range(1000)]
    hits = sum(solver.solve(trial) == truth for trial in trials)
    assert 150 < hits < 250
