"""A server on the loopback interface that speaks the OpenAI protocol, with a scripted model."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Scripted:
    """What the server sends.

    Args:
        text: of the model's message.
        status: of the response.
        seconds: to wait first.
        raw: sent instead of a response in the protocol.
        counts_tokens: whether the response says how many there were.
        finish_reason: why the model's message ends.
        location: that the response redirects to.
    """

    text: str | None = ""
    status: int = 200
    seconds: float = 0.0
    raw: bytes | None = None
    counts_tokens: bool = True
    finish_reason: str = "stop"
    location: str | None = None


@dataclass
class Request:
    """A request as it came in."""

    instructions: str
    question: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


class LoopbackModel:
    """The server; use it in a `with` statement.

    Args:
        script: what is sent for a request, given the number of earlier ones with its question.

    Attributes:
        requests: all that came in, in order.
    """

    def __init__(self, script: Callable[[Request, int], Scripted]) -> None:
        self.script = script
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def questions(self) -> list[str]:
        return [request.question for request in self.requests]

    def _take(self, request: Request) -> Scripted:
        with self._lock:
            earlier = self.questions.count(request.question)
            self.requests.append(request)
        return self.script(request, earlier)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        take = self._take

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                system, user = (message["content"] for message in body["messages"][:2])
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = take(Request(system, user, body, headers))
                time.sleep(answer.seconds)
                content = answer.raw if answer.raw is not None else _completion(answer)
                try:
                    self.send_response(answer.status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(content)))
                    self.send_header("retry-after-ms", "1")
                    if answer.location is not None:
                        self.send_header("location", answer.location)
                    self.end_headers()
                    self.wfile.write(content)
                except ConnectionError:  # the client did not wait
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _completion(answer: Scripted) -> bytes:
    if answer.status != 200:
        return json.dumps({"error": {"message": answer.text}}).encode()
    n_tokens = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    message = {"role": "assistant", "content": answer.text}
    return json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "scripted",
            "choices": [{"index": 0, "finish_reason": answer.finish_reason, "message": message}],
            "usage": n_tokens if answer.counts_tokens else None,
        }
    ).encode()
