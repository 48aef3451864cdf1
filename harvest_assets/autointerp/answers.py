"""The answers to questions, kept as they come; what is answered is never asked again.

`interpretations/answers/` holds files of JSON lines. Each process appends to a file of its own,
and an answer is on the disk before it counts. A question is named by the SHA-256 of its prompt, and
who answers it by the address of the endpoint and the name of the model there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, Self

from pydantic import Field

from harvest_assets.autointerp.prompts import Prompt
from harvest_assets.autointerp.replies import Kind, Reply, read_reply
from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import fsync_path, new_path, sweep
from harvest_assets.files.sanitize import presentable, without_secrets
from harvest_assets.files.untrusted import as_record, parse_json

IMPORTED = "import"  # in the place of the endpoint
_MAX_LINE = 1 << 20
_MAX_PROBLEM = 300
_MAX_TOKENS = 1 << 40  # an endpoint may claim any number
_MAX_TEXT = 4_000  # characters kept of an unusable answer
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Question:
    """Something to ask a model.

    Args:
        component_key: of the component that it is about.
        prompt: what is asked.
        kind: of the answer.
        n_contexts: contexts that are shown.
    """

    component_key: str
    prompt: Prompt
    kind: Kind
    n_contexts: int

    def read(self, text: str) -> Reply:
        """The answer in a model's text; see `replies.read_reply`."""
        return read_reply(text, self.kind, self.n_contexts)


@dataclass(frozen=True)
class Answer:
    """An answer as it is stored.

    Args:
        prompt_sha256: of the question.
        model: that answered.
        text: the JSON object that was asked for; what it wrote, if that is of no use.
        problem: why the text is of no use; empty if it is.
        calls: of the model that it took; 0 where the answer was imported.
        input_tokens: of the question, and of what is wrong with earlier answers to it.
        output_tokens: of all answers to it.
        answered_at: in UTC.
        endpoint: where the model is; `import` where the answer was imported.
    """

    prompt_sha256: str
    model: str
    text: str
    problem: str = ""
    calls: Count = 0
    input_tokens: Count = 0
    output_tokens: Count = 0
    answered_at: str = ""
    endpoint: str = ""


def judged(
    question: Question,
    model: str,
    text: str,
    *,
    endpoint: str,
    calls: int = 0,
    input_tokens: int = 0,
    output_tokens: int = 0,
) -> Answer:
    """An answer that was given just now, checked."""
    try:
        kept, problem = without_secrets(question.read(text).model_dump_json()), ""
    except ValueError as error:
        kept, problem = presentable(text, _MAX_TEXT), presentable(str(error), _MAX_PROBLEM)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return Answer(
        question.prompt.sha256,
        model,
        kept,
        problem,
        calls,
        min(input_tokens, _MAX_TOKENS),
        min(output_tokens, _MAX_TOKENS),
        when,
        endpoint,
    )


class AnswerBook:
    """The answers of one model to questions about one harvest.

    Args:
        folder: of the files.
        model: name of the model.
        endpoint: where it is, or `IMPORTED`; None for any.

    Attributes:
        damaged_lines: lines that are no answers, such as the last one of a process that was killed.
    """

    def __init__(self, folder: Path, model: str, endpoint: str | None) -> None:
        self.model = model
        self._endpoint = endpoint
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._answers: dict[str, Answer] = {}
        self.damaged_lines = 0
        for path in sorted(folder.glob("*.jsonl")):
            if path.is_file():
                self._read(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def get(self, question: Question) -> Answer | None:
        """The answer to a question; None if it has not been answered."""
        return self._answers.get(question.prompt.sha256)

    def reply(self, question: Question) -> Reply | None:
        """The usable answer to a question, if there is one."""
        answer = self.get(question)
        if answer is None or answer.problem:
            return None
        try:
            return question.read(answer.text)
        except ValueError:
            return None

    def forget_unusable(self) -> None:
        """Let questions be asked again whose answers are of no use."""
        self._answers = {k: it for k, it in self._answers.items() if not it.problem}

    def add(self, answers: Iterable[Answer]) -> None:
        """Store answers; they are on the disk when this returns."""
        new = list(answers)
        if not new:
            return
        if self._file is None:
            self._file = self._create()
        for it in new:
            self._file.write(json.dumps(dataclasses.asdict(it)).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        for it in new:
            self._take(it)

    def _create(self) -> IO[bytes]:
        self._folder.mkdir(parents=True, exist_ok=True)
        when = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        file = (self._folder / f"{when}-{uuid.uuid4().hex[:12]}.jsonl").open("xb")
        fsync_path(self._folder)
        return file

    def _read(self, path: Path) -> None:
        for line in _lines(path):
            try:
                answer = as_record(parse_json(line), Answer)
            except ValueError:
                self.damaged_lines += 1
                continue
            if answer.model == self.model and self._endpoint in (None, answer.endpoint):
                self._take(answer)

    def _take(self, answer: Answer) -> None:
        """Remember an answer; a usable one is not replaced."""
        known = self._answers.get(answer.prompt_sha256)
        if known is None or known.problem:
            self._answers[answer.prompt_sha256] = answer


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while line := file.readline(_MAX_LINE):
            yield line


def export_questions(questions: Iterable[Question], path: Path) -> int:
    """Write questions as JSON lines, for a model of one's own; all of them or no file.

    Returns:
        How many.

    Raises:
        HarvestError: the file exists.
    """
    n = 0
    try:
        if path.exists():
            raise FileExistsError
        sweep(path.parent)
        with new_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for question in questions:
                line = {
                    "prompt_sha256": question.prompt.sha256,
                    "component_key": question.component_key,
                    "instructions": question.prompt.instructions,
                    "question": question.prompt.question,
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                n += 1
    except FileExistsError:
        raise HarvestError(f"{path} exists already; choose another name.") from None
    return n


def import_answers(path: Path, questions: Iterable[Question], book: AnswerBook) -> tuple[int, int]:
    """Store the answers in a file of JSON lines, each `{"prompt_sha256": ..., "answer": ...}`.

    The answer is a text, or the JSON object that was asked for. What is of no use counts as a
    failed trial, as if the model had just been asked.

    Returns:
        How many were stored, and how many answer none of the questions.

    Raises:
        HarvestError: a line is not of that form; nothing is stored.
    """
    known = {question.prompt.sha256: question for question in questions}
    new, n_unknown = [], 0
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
            sha256, answer = value["prompt_sha256"], value["answer"]
            question = known.get(sha256)
        except (ValueError, KeyError, TypeError) as error:
            raise HarvestError(
                f"Line {number} of {path} is not an answer ({reason_of(error)}); expected "
                '{"prompt_sha256": "...", "answer": ...}.'
            ) from error
        if question is None:
            n_unknown += 1
            continue
        text = answer if isinstance(answer, str) else json.dumps(answer)
        new.append(judged(question, book.model, text, endpoint=IMPORTED))
    book.add(new)
    return len(new), n_unknown
