"""Labelling or scoring the components of one harvest, some components at a time.

1. The trials of a group of components are drawn, and their prompts written.
2. What has no answer is asked, or was imported; each answer is stored as it comes.
3. Each component whose questions all have answers gets its label or score, which is stored.

Killed anywhere, the same call continues: what is answered is not asked again, and what is stored is
not stored twice.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from harvest_assets import __version__
from harvest_assets.autointerp.answers import (
    IMPORTED,
    AnswerBook,
    Question,
    export_questions,
    import_answers,
)
from harvest_assets.autointerp.asking import Asker, Estimate, Model, Tally, estimate
from harvest_assets.autointerp.budget import Budget
from harvest_assets.autointerp.material import Component, Material
from harvest_assets.autointerp.model import ChatModel
from harvest_assets.autointerp.prompts import label_prompt, trial_prompt
from harvest_assets.autointerp.replies import kind_of
from harvest_assets.autointerp.settings import ComponentChoice, ModelSettings
from harvest_assets.autointerp.trials import LABEL_EXAMPLES, Method, draw_trials, firings_marked
from harvest_assets.autointerp.work import LabelWork, TrialWork, Work
from harvest_assets.errors import HarvestError, TransientError, counted, reason_of
from harvest_assets.files.atomic import write_json
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.lease import hold_lease
from harvest_assets.files.sanitize import presentable
from harvest_assets.interpretations.entries import Entry, Score
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets.loaders import recorded_tokenizer
from harvest_assets.results.components_jsonl import read_component

LABELS = "labels"
TOO_FEW = "with too few examples"
_TOO_FEW_HELD_OUT = "with too few examples that the label was not made from"
_GROUP = 64  # components that are drawn, asked and stored together
_PMI_TOKENS = 10


@dataclass
class Report:
    """What was done.

    Args:
        what: `labels`, or the method of the scores.
        components: that were chosen.
        stored: labels or scores that were stored.
        already: those that were stored before.
        unfinished: components with questions that have no answer.
        failed: components all of whose answers are of no use.
        skipped: components that cannot be tried, by the reason.
        tally: of the calls.
        scores: of the chosen components, for each method; for labels their confidence.
        notes: sentences for whoever reads this.
    """

    what: str
    components: int = 0
    stored: int = 0
    already: int = 0
    unfinished: int = 0
    failed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    scores: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Components that are finished with, one way or another."""
        parts = (self.stored, self.already, self.unfinished, self.failed)
        return sum(parts) + sum(self.skipped.values())

    def note_score(self, method: str, value: float | None) -> None:
        """Add a value to a distribution."""
        if value is not None:
            self.scores.setdefault(method, []).append(value)


Watch = Callable[[Report], None]


class Task:
    """Labels, or scores by one method, for chosen components of a harvest.

    Args:
        paths: of the harvest.
        choice: of components.
        method: of the scores; None for labels.

    Raises:
        HarvestError: the harvest is not finished, its files are damaged, its tokenizer is missing,
            or no component is left.
    """

    def __init__(
        self, paths: HarvestLayout, choice: ComponentChoice, method: Method | None
    ) -> None:
        self.paths, self.choice, self.method = paths, choice, method
        self.material = Material(paths)
        self.components = self.material.choose(choice)
        self.what = LABELS if method is None else method.value
        self.skipped: Counter[str] = Counter()
        self._vocabulary = recorded_tokenizer(paths).open(paths.tokenizer).vocabulary
        self._labels = _labels_of(paths) if method is not None and method.needs_label else {}

    def groups(self) -> Iterator[list[Work]]:
        """The work of all components that can be tried, a group at a time."""
        self.skipped.clear()
        for group in in_groups(self.components):
            yield [work for it in group if (work := self._work(it)) is not None]

    def questions(self) -> Iterator[Question]:
        """All questions, component by component."""
        return (q for group in self.groups() for work in group for q in work.questions)

    def _work(self, component: Component) -> Work | None:
        if self.method is None:
            return self._label_work(component)
        label = self._labels.get(component.key)
        if self.method.needs_label and label is None:
            self.skipped["without a label"] += 1
            return None
        trials = draw_trials(self.material, component, self.method, self.choice.seed)
        if not trials:
            self.skipped[_TOO_FEW_HELD_OUT if self.method.needs_label else TOO_FEW] += 1
            return None
        prompts = [trial_prompt(trial, self._vocabulary, label) for trial in trials]
        questions = [
            Question(component.key, prompt, kind_of(self.method), len(trial.contexts))
            for prompt, trial in zip(prompts, trials, strict=True)
        ]
        return TrialWork(component, trials, questions, label)

    def _label_work(self, component: Component) -> LabelWork | None:
        data = read_component(self.paths, component.key)
        examples = self.material.examples(component.key)[:LABEL_EXAMPLES]
        if data is None or not examples:
            self.skipped[TOO_FEW] += 1
            return None
        prompt = label_prompt(
            [firings_marked(example, self.material.ci_threshold) for example in examples],
            data.input_token_pmi.top[:_PMI_TOKENS],
            data.output_token_pmi.top[:_PMI_TOKENS],
            self._vocabulary,
        )
        return LabelWork(component, [Question(component.key, prompt, "label", len(examples))])


def _labels_of(paths: HarvestLayout) -> dict[str, str]:
    current = Interpretations(paths).current()
    rows = current.select("component_key", "label").drop_nulls().iter_rows()
    labels = {key: label for key, label in rows if label}
    if not labels:
        raise HarvestError(
            f"No component of {paths.root.name} has a label; harvest-assets label makes some."
        )
    return labels


def estimated(task: Task, settings: ModelSettings, *, retry_unusable: bool = False) -> Estimate:
    """What the task would ask the model; nothing is sent, nothing is written."""
    book = AnswerBook(task.paths.answers, settings.model or "", settings.endpoint)
    if retry_unusable:
        book.forget_unusable()
    open_ = (question for question in task.questions() if book.get(question) is None)
    return estimate(open_, settings)


def export(task: Task, path: Path) -> int:
    """Write all questions of the task into a file; see `answers.export_questions`."""
    return export_questions(task.questions(), path)


def run(
    task: Task,
    settings: ModelSettings,
    model: Model,
    watch: Watch = lambda _: None,
    *,
    retry_unusable: bool = False,
) -> Report:
    """Ask a model what is not answered yet, and store labels or scores.

    Args:
        task: what is asked.
        settings: with the name of the model, under which answers are stored.
        model: that is asked.
        watch: is called as the work goes on.
        retry_unusable: ask again where an answer was of no use.

    Raises:
        HarvestError: the endpoint refuses all questions.
        TransientError: it answered none of them; what was stored before stays.
        LeaseHeldError: another process labels or scores components of this harvest.
    """
    name = str(settings.model)
    with working(task.paths), AnswerBook(task.paths.answers, name, settings.endpoint) as book:
        if retry_unusable:
            book.forget_unusable()
        report = _begun(task, book)
        with Asker(model, settings, book, lambda _: watch(report)) as asker:
            report.tally = asker.tally
            stored = _Stored(task, book)
            try:
                for group in task.groups():
                    asker.ask(q for work in group for q in work.questions)
                    stored.take(group, report)
                    watch(report)
                    if asker.tally.stopped:
                        break
            except BaseException as error:
                asker.tally.stopped = asker.tally.stopped or presentable(reason_of(error))
                raise
            finally:
                report.skipped = dict(task.skipped)
                report.unfinished += report.components - report.done  # those not reached
                keep_report(task.paths, task.choice, report, settings)
    if report.tally.unanswered and not report.tally.asked:
        raise TransientError(f"No question was answered: {next(iter(report.tally.problems))}")
    return report


def run_all(
    paths: HarvestLayout,
    choice: ComponentChoice,
    settings: ModelSettings,
    methods: Sequence[Method | None],
    watch: Watch = lambda _: None,
) -> list[Report]:
    """Labels or scores by several methods, one after the other, by the model of the settings.

    The limits hold for all together. The arguments and errors are those of `Task` and `run`.
    """
    settings.require_model()
    budget = Budget(settings)
    return [
        run(Task(paths, choice, method), settings, ChatModel(settings, budget), watch)
        for method in methods
    ]


def run_imported(task: Task, settings: ModelSettings, path: Path, watch: Watch) -> Report:
    """Store labels or scores from the answers in a file.

    Args:
        task: what was asked.
        settings: with the name of the model that answered.
        path: of the file; see `answers.import_answers`.
        watch: is called as the work goes on.

    Raises:
        HarvestError: a line of the file is not valid; nothing is stored.
        LeaseHeldError: another process labels or scores components of this harvest.
    """
    name = str(settings.model)
    with working(task.paths), AnswerBook(task.paths.answers, name, IMPORTED) as book:
        report = _begun(task, book)
        n, unknown = import_answers(path, task.questions(), book)
        report.tally.asked = n
        if unknown:
            report.notes.append(f"{unknown:,} answers are to none of these questions.")
        stored = _Stored(task, book)
        for group in task.groups():
            stored.take(group, report)
            watch(report)
        report.skipped = dict(task.skipped)
        keep_report(task.paths, task.choice, report, settings)
    return report


def _begun(task: Task, book: AnswerBook) -> Report:
    report = Report(task.what, len(task.components))
    if book.damaged_lines:
        damaged = counted(book.damaged_lines, "line")
        report.notes.append(f"{damaged} of the files in {task.paths.answers} could not be read.")
    return report


class _Stored:
    """Stores labels and scores that are not the newest ones already."""

    def __init__(self, task: Task, book: AnswerBook) -> None:
        self._interpretations = Interpretations(task.paths)
        self._book = book
        self._newest: dict[str, tuple[Any, ...]] = {}
        if task.method is None:
            frame = self._interpretations.labels()
            frame = frame.filter(frame["source"] != "person")
        else:
            frame = self._interpretations.scores()
            frame = frame.filter(frame["method"] == task.method.value)
        for row in frame.iter_rows(named=True):  # by rising time
            self._newest[row["component_key"]] = _identity(row)

    def take(self, group: Sequence[Work], report: Report) -> None:
        """Store what follows from the answers to the questions of some components."""
        new: list[Entry] = []
        for work in group:
            entry = work.entry(self._book)
            if entry is not None:
                if isinstance(entry, Score):
                    report.note_score(entry.method, entry.score)
                else:
                    report.note_score("confidence", entry.confidence)
                if self._newest.get(entry.component_key) == _identity(asdict(entry)):
                    report.already += 1
                else:
                    new.append(entry)
            elif all(self._book.get(question) for question in work.questions):
                report.failed += 1
            else:
                report.unfinished += 1
        self._interpretations.add(new)
        report.stored += len(new)


def _identity(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two entries of a component share that say the same."""
    said = ("author", "prompt_sha256", "label", "confidence", "reason", "score", "n_failed")
    return tuple(entry.get(name) for name in said)


def working(paths: HarvestLayout) -> AbstractContextManager[None]:
    """Let one process at a time label or score the components of a harvest."""
    return hold_lease(paths.autointerp_lease, f"The interpretation of {paths.root.name}")


def in_groups(components: Sequence[Component]) -> Iterator[list[Component]]:
    """Components some at a time."""
    rest = iter(components)
    while group := list(islice(rest, _GROUP)):
        yield group


def keep_report(
    paths: HarvestLayout, choice: ComponentChoice, report: Report, settings: ModelSettings | None
) -> None:
    """Keep a report beside the answers, with what was asked for."""
    content = {
        "what": report.what,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "components": choice.model_dump(mode="json"),
        "model": None if settings is None else settings.model_dump(mode="json"),
        "report": {k: v for k, v in asdict(report).items() if k != "scores"},
        "harvest_assets_version": __version__,
    }
    when = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    name = f"{when}-{report.what}-{uuid.uuid4().hex[:8]}.json"
    write_json(paths.autointerp_reports / name, content)
