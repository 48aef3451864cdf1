"""Intruder trials without a language model: how far do the tokens alone go?

Both solvers make a vector of each context and name the one that is least like the others, by the
cosine with the sum of the other four. Tokens count less the farther they are from a marked one, by
1 / (1 + distance) squared. If several are equally unlike, one of them is drawn.

1. `intruder_tokens`: each token is a dimension of its own, weighted by its rarity in the harvest,
   log(positions / occurrences).
2. `intruder_embeddings`: the rows of the model's own embedding matrix, less their mean, at length
   one, with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harvest_assets.autointerp.draws import Draws
from harvest_assets.autointerp.trials import Context, Trial

_EQUAL = 1e-9  # cosines that differ by less are equal

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Solver:
    """Answers intruder trials.

    Args:
        method: name of the scores.
        vectors: of contexts, [n, width].
        seed: of the draws between equals.
    """

    method: str
    vectors: Callable[[tuple[Context, ...]], Floats]
    seed: int

    def solve(self, trial: Trial) -> tuple[bool, ...]:
        """For each context, whether it is named as the intruder."""
        vectors = _at_length_one(self.vectors(trial.contexts))
        others = _at_length_one(vectors.sum(axis=0) - vectors)
        likeness = (vectors * others).sum(axis=1)
        least = [i for i, it in enumerate(likeness) if it <= likeness.min() + _EQUAL]
        draws = Draws(self.seed, trial.component_key, self.method, trial.number)
        named = draws.choice(least)
        return tuple(i == named for i in range(len(trial.contexts)))


def token_solver(occurrences: Floats, seed: int) -> Solver:
    """The solver by tokens.

    Args:
        occurrences: [vocab], how often each token occurred in the harvest.
        seed: of the draws between equals.
    """
    rarity = np.log(max(1.0, float(occurrences.sum())) / np.maximum(occurrences, 1.0))

    def vectors(contexts: tuple[Context, ...]) -> Floats:
        ids = sorted({token for context in contexts for token in context.token_ids})
        place = {token: i for i, token in enumerate(ids)}
        found = np.zeros((len(contexts), len(ids)))
        for row, context in zip(found, contexts, strict=True):
            for token, weight in zip(context.token_ids, _nearness(context), strict=True):
                row[place[token]] += weight * (rarity[token] if token < len(rarity) else 0.0)
        return found

    return Solver("intruder_tokens", vectors, seed)


def embedding_solver(embeddings: Floats, seed: int) -> Solver:
    """The solver by embeddings.

    Args:
        embeddings: [vocab, width], of the model's tokens.
        seed: of the draws between equals.
    """
    centred = _at_length_one(embeddings - embeddings.mean(axis=0))

    def vectors(contexts: tuple[Context, ...]) -> Floats:
        return np.stack([_nearness(it) @ centred[list(it.token_ids)] for it in contexts])

    return Solver("intruder_embeddings", vectors, seed)


def _nearness(context: Context) -> Floats:
    places, marked = np.arange(len(context.token_ids)), np.array(context.marked)
    distance = np.abs(places[:, None] - marked).min(axis=1)
    weights: Floats = 1.0 / (1.0 + distance) ** 2
    return weights


def _at_length_one(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)
