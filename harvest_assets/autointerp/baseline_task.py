"""Intruder scores of components without a language model; see `baseline`."""

from __future__ import annotations

import numpy as np

from harvest_assets.autointerp.baseline import Solver, embedding_solver, token_solver
from harvest_assets.autointerp.material import Component, Material
from harvest_assets.autointerp.settings import BASELINE, ComponentChoice
from harvest_assets.autointerp.task import TOO_FEW, Report, Watch, in_groups, keep_report, working
from harvest_assets.autointerp.trials import Method, draw_trials
from harvest_assets.autointerp.work import AUTHOR, score_entry
from harvest_assets.decompositions.protocol import HasTokenEmbeddings
from harvest_assets.decompositions.registry import open_decomposition
from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.interpretations.entries import Score, sha256_of_text
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets.results.count_tensors import TokenStatsStorage
from harvest_assets.store.imported import source_of


def run_baseline(
    paths: HarvestLayout, choice: ComponentChoice, watch: Watch = lambda _: None
) -> Report:
    """Score components by both baselines and store the scores.

    Args:
        paths: of the harvest.
        choice: of components.
        watch: is called as the work goes on.

    Raises:
        HarvestError: the harvest is not finished, its files are damaged, or no component is left.
        LeaseHeldError: another process labels or scores components of this harvest.
    """
    material = Material(paths)
    components = material.choose(choice)
    report = Report(BASELINE, len(components))
    solvers = _solvers(paths, choice.seed, report)
    with working(paths):
        interpretations = Interpretations(paths)
        rows = interpretations.scores().select("component_key", "method", "prompt_sha256")
        newest = {(key, method): prompts for key, method, prompts in rows.iter_rows()}
        for group in in_groups(components):
            new: list[Score] = []
            for component in group:
                scores = _scores(material, component, solvers, choice.seed)
                for score in scores:
                    report.note_score(score.method, score.score)
                fresh = [
                    it
                    for it in scores
                    if newest.get((it.component_key, it.method)) != it.prompt_sha256
                ]
                new += fresh
                report.stored += bool(fresh)
                report.already += bool(scores) and not fresh
                if not scores:
                    report.skipped[TOO_FEW] = report.skipped.get(TOO_FEW, 0) + 1
            interpretations.add(new)
            watch(report)
        keep_report(paths, choice, report, None)
    return report


def _scores(
    material: Material, component: Component, solvers: list[Solver], seed: int
) -> list[Score]:
    trials = draw_trials(material, component, Method.INTRUDER, seed)
    drawn = sha256_of_text(repr(trials))  # there are no prompts
    scores = []
    for solver in solvers if trials else ():
        verdicts = [solver.solve(trial) for trial in trials]
        score = score_entry(trials, verdicts, solver.method, AUTHOR, drawn)
        assert score is not None  # noqa: S101 - there is a verdict of each trial
        scores.append(score)
    return scores


def _solvers(paths: HarvestLayout, seed: int, report: Report) -> list[Solver]:
    """The solvers that this harvest allows; the report says why one is left out."""
    occurrences = TokenStatsStorage.load(paths.token_stats).input_totals.numpy()
    solvers = [token_solver(occurrences.astype(np.float64), seed)]
    try:
        if source_of(paths) is not None:
            raise HarvestError("The harvest was imported, without its run.")
        decomposition = open_decomposition(paths.root)
        if not isinstance(decomposition, HasTokenEmbeddings):
            raise HarvestError("Its kind of decomposition gives none.")
        embeddings = decomposition.token_embeddings()
    except HarvestError as error:
        report.notes.append(f"No scores by embeddings: {error}")
    else:
        solvers.append(embedding_solver(embeddings.double().numpy(), seed))
    return solvers
