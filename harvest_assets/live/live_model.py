"""Asks the process that holds the model of a run; starts, replaces and ends it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.atomic import file_version
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.files.untrusted import read_json
from harvest_assets.live.kind import A, Kind, Q
from harvest_assets.settings import LiveSettings
from harvest_assets.wandb_client.module_path import file_and_name, is_object_path

_MODULE = "harvest_assets.live.process"
_SECONDS_TO_END = 2.0
_MAX_REPLY_BYTES = 1 << 28  # of a whole row with all lists; the longest have some megabytes
_MAX_ERROR = 1000  # characters


class _EndedError(Exception):
    """The process ended without a reply."""


class _OddReplyError(Exception):
    """The reply is not one of ours: code of a model may write to any file."""


@dataclass(frozen=True)
class _Process:
    """A process and the files that it has opened."""

    popen: subprocess.Popen[bytes]
    pipe: Connection
    files: Hashable

    @classmethod
    def start(cls, paths: HarvestLayout, files: Hashable) -> _Process:
        """Start one that opens a run."""
        ours, theirs = socket.socketpair()
        with theirs:
            popen = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno()), paths.root.name],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        # So that one that ends by itself does not stay a zombie.
        threading.Thread(target=popen.wait, daemon=True).start()
        return cls(popen, Connection(ours.detach()), files)

    def reply(self, deadline: float) -> Any:
        """Its next reply.

        Raises:
            HarvestError: the reply is an error.
            TimeoutError: there was none in time, or not all of it.
            _EndedError: it ended.
            _OddReplyError: the reply is not of the expected form.
        """
        try:
            if not self.pipe.poll(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            content = json.loads(self._message(deadline))
        except (EOFError, ConnectionError):
            raise _EndedError from None
        except TimeoutError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            raise _OddReplyError(reason_of(error)) from None
        if not isinstance(content, dict) or not {"error", "answer"} & content.keys():
            raise _OddReplyError("it has neither an answer nor an error")
        if "error" in content:
            raise HarvestError(str(content["error"])[:_MAX_ERROR])
        return content["answer"]

    def _message(self, deadline: float) -> bytes:
        """The next message; a process that never completes it is killed."""
        overdue = threading.Timer(max(0.0, deadline - time.monotonic()), self.popen.kill)
        overdue.start()
        try:
            return self.pipe.recv_bytes(_MAX_REPLY_BYTES)
        except (EOFError, OSError) as error:
            if time.monotonic() >= deadline:
                raise TimeoutError from error
            raise
        finally:
            overdue.cancel()

    def send(self, message: dict[str, Any]) -> None:
        """Ask; waiting for the reply reports a process that has ended."""
        with suppress(ConnectionError):
            self.pipe.send_bytes(json.dumps(message).encode())

    def end(self) -> int:
        """End it, also while it computes; returns its status."""
        with suppress(OSError):
            self.pipe.close()  # on which it ends
        try:
            return self.popen.wait(timeout=_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()


class LiveModel:
    """Asks the model of one run at a time; threads may share it.

    The first question about a run starts a process that opens the model, in place of that of
    another run. The process ends when idle (`HARVEST_LIVE_IDLE_SECONDS`) and with this one.
    """

    def __init__(self) -> None:
        self._process: _Process | None = None
        self._is_open = False  # its model is
        self._one_at_a_time = threading.Lock()
        self._is_closed = False

    def ask(self, paths: HarvestLayout, kind: Kind[Q, A], question: Q) -> A:
        """The answer to a question, after those to the questions of other threads.

        Args:
            paths: of a harvest of the run.
            kind: of the question.
            question: to ask.

        Raises:
            HarvestError: there is no answer, the process ended, or time was up.
        """
        with self._one_at_a_time:
            message = {"kind": kind.name, "question": question.model_dump(mode="json")}
            answer = self._exchange(paths, message)
        try:
            return kind.answer.model_validate(answer)
        except ValidationError as error:
            raise _odd(paths, f"it is not an answer to {kind.name}: {reason_of(error)}") from None

    def is_open(self, paths: HarvestLayout) -> bool:
        """Whether a question about a run would find its model open."""
        process = self._process
        is_this = process is not None and process.files == files_of(paths) and _runs(process)
        return is_this and self._is_open

    def close(self) -> None:
        """End the process, for good; a thread that waits for its answer gets an error."""
        self._is_closed = True
        process = self._process
        if process is not None:
            # Closing the pipe would not wake a thread that waits for it.
            process.popen.kill()
            process.popen.wait()

    def _exchange(self, paths: HarvestLayout, message: dict[str, Any], attempt: int = 0) -> Any:
        """Ask the process of a run, which is started if there is none."""
        limit = LiveSettings.from_environment().live_answer_seconds
        try:
            process = self._opened(paths, limit)
            process.send(message)
            return process.reply(time.monotonic() + limit)
        except TimeoutError:
            self._end()
            raise HarvestError(
                f"The model of {paths.root.name} did not answer within {limit:g} s and was closed; "
                "ask something shorter, or raise HARVEST_LIVE_ANSWER_SECONDS."
            ) from None
        except _OddReplyError as error:
            self._end()
            raise _odd(paths, str(error)) from None
        except _EndedError:
            status = self._end()
        self._require_not_closed()
        if status == 0 and attempt == 0:  # it had been idle, and ended before it read this
            return self._exchange(paths, message, attempt + 1)
        how = f"signal {-status}" if status < 0 else f"status {status}"
        raise HarvestError(
            f"The process that computes the model of {paths.root.name} ended ({how}); if memory "
            "ran out, free some. Asking again starts it again."
        )

    def _opened(self, paths: HarvestLayout, limit: float) -> _Process:
        """The process of a run; that of another run is ended first, which frees its memory.

        Args:
            paths: of a harvest of the run.
            limit: seconds that opening it may take.
        """
        files = files_of(paths)
        process = self._process
        if process is not None and process.files == files and _runs(process):
            return process
        self._end()
        self._require_not_closed()
        process = self._process = _Process.start(paths, files)
        try:
            self._require_not_closed()  # `close` may not have seen this process
            process.reply(time.monotonic() + limit)
        except TimeoutError:
            self._end()
            raise HarvestError(
                f"The model of {paths.root.name} was not open within {limit:g} s; ask again when "
                "the machine is less busy, or raise HARVEST_LIVE_ANSWER_SECONDS."
            ) from None
        except HarvestError:
            self._end()
            raise
        self._is_open = True
        return process

    def _require_not_closed(self) -> None:
        if self._is_closed:
            raise HarvestError("The viewer is being stopped.")

    def _end(self) -> int:
        """End the process, if there is one; returns its status."""
        self._is_open = False
        process, self._process = self._process, None
        return 0 if process is None else process.end()


def _odd(paths: HarvestLayout, what: str) -> HarvestError:
    return HarvestError(
        f"The model of {paths.root.name} gave a reply that cannot be read ({what}); ask again, and "
        "if that does not help, check what the code of the model writes."
    )


def _runs(process: _Process) -> bool:
    return process.popen.poll() is None


def files_of(paths: HarvestLayout) -> Hashable:
    """Identifies the run and the settings with which its model is opened, as their files are."""
    versions: list[tuple[int, ...]] = []
    for file in (paths.run_checkpoint, paths.plan, *_run_files(paths)):
        try:
            versions.append(file_version(file))
        except OSError:
            versions.append(())
    return (paths.root, *versions)


def _run_files(paths: HarvestLayout) -> list[Path]:
    """The files of the run, or of the module that defines it."""
    try:
        record = read_json(paths.run_checkpoint)
        files = [Path(record[name]) for name in ("config_path", "checkpoint_path")]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return [file_and_name(file)[0] if is_object_path(file) else file for file in files]
