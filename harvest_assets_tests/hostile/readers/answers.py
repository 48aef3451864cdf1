"""Readers of what language models and live models answer."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import struct
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harvest_assets.autointerp.answers import IMPORTED, AnswerBook, Question, import_answers, judged
from harvest_assets.autointerp.prompts import Prompt
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.interpretations.entries import Label
from harvest_assets.live import live_model
from harvest_assets.live.live_model import LiveModel
from harvest_assets.live.questions import KINDS
from harvest_assets_tests.hostile.readers.reader import Reader, put

_KINDS = ("intruder", "verdicts", "label")
QUESTIONS = [Question("h.0.mlp:3", Prompt("say", kind), kind, 5) for kind in _KINDS]  # type: ignore[arg-type]
_REPLIES = [
    '{"reason": "it is other", "intruder": 2}',
    '{"verdicts": [true, false, true, false, true]}',
    'Sure! {"reason": "rain", "label": "weather", "confidence": 0.9}',
]


_AT = {
    "token_id": 1,
    "n_firing": 0,
    "firing": [],
    "predictions": [{"token_id": 2, "probability": 0.5}],
}
_ANSWER = {"positions": [_AT], "n_components": 0, "components": [], "threshold": 0.0}


class ModelAnswer(Reader):
    """What a language model writes."""

    def seeds(self) -> list[bytes]:
        return [reply.encode() for reply in _REPLIES]

    def read(self, content: bytes) -> None:
        text = content.decode("utf-8", "surrogateescape")  # JSON has lone surrogates too
        for question in QUESTIONS:
            answer = judged(question, "m", text, endpoint="http://localhost")
            json.dumps(dataclasses.asdict(answer)).encode()
            assert len(answer.text) < 1 << 16
            if answer.problem:
                assert answer.problem.isprintable()
                continue
            reply = question.read(answer.text)
            assert reply == question.read(text)
            if question.kind == "label":
                label: Any = reply
                Label("a:0", label.label, label.confidence, label.reason, "model", "m")


class AnswerFile(Reader):
    """A file of answers: one that was kept, and one that is imported."""

    def seeds(self) -> list[bytes]:
        with AnswerBook(self.folder / "made", "m", IMPORTED) as book:
            answers = zip(QUESTIONS, _REPLIES, strict=True)
            book.add(judged(question, "m", text, endpoint=IMPORTED) for question, text in answers)
        lines = [
            {"prompt_sha256": question.prompt.sha256, "answer": text}
            for question, text in zip(QUESTIONS, _REPLIES, strict=True)
        ]
        theirs = "\n".join(map(json.dumps, lines)).encode()
        return [next((self.folder / "made").iterdir()).read_bytes(), theirs]

    def read(self, content: bytes) -> None:
        kept = self.folder / "kept"
        kept.mkdir(exist_ok=True)
        put(kept / "theirs.jsonl", content)
        book = AnswerBook(kept, "m", IMPORTED)
        for question in QUESTIONS:
            reply = book.reply(question)
            assert reply is None or hasattr(reply, question.kind)
        for old in (self.folder / "new").glob("*"):
            old.unlink()
        with AnswerBook(self.folder / "new", "m", IMPORTED) as new:
            n, _ = import_answers(kept / "theirs.jsonl", QUESTIONS, new)
        again = AnswerBook(self.folder / "new", "m", IMPORTED)
        assert again.damaged_lines == 0
        assert n == 0 or any(again.get(question) for question in QUESTIONS)


class _Popen:
    """A process that has ended."""

    returncode = 0

    def poll(self) -> None:
        return None

    def wait(self, timeout: float | None = None) -> int:  # noqa: ARG002
        return 1

    def kill(self) -> None:
        pass


class LiveReply(Reader):
    """The bytes that the process of a model sends; then it ends."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        os.environ["SPD_OUT_DIR"] = str(folder)
        self.paths = HarvestLayout(folder / "x-aaaaaaaa")

    def seeds(self) -> list[bytes]:
        replies = [
            b'{"error": "It is too long."}',
            json.dumps({"answer": _ANSWER}).encode(),
        ]
        return [struct.pack("!i", len(reply)) + reply for reply in replies]

    def read(self, content: bytes) -> None:
        live = LiveModel()
        live._opened = lambda *_: self._process(content)  # type: ignore[method-assign]
        kind = KINDS["prompt"]
        answer = live.ask(self.paths, kind, kind.question(text="a"))
        assert isinstance(answer, kind.answer)

    def _process(self, content: bytes) -> Any:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(content[: 1 << 15])
        popen: Any = _Popen()
        return live_model._Process(popen, Connection(ours.detach()), None)
