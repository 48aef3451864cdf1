"""The process that queries W&B, forked from one that has imported the client already."""

from __future__ import annotations

import multiprocessing
import os
from functools import partial
from multiprocessing.connection import Connection

import pytest

from harvest_assets.orchestration.wandb import subprocess_client

_answer = subprocess_client._answer


def start_quickly(patch: pytest.MonkeyPatch) -> None:
    """Start each process by a fork, which saves seconds of imports.

    It has this process's environment when the context was asked for, as a spawned one has.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "wandb", "wandb.apis.public"])

    def get_context(_method: str):
        patch.setattr(subprocess_client, "_answer", partial(_answer_in, dict(os.environ)))
        return context

    fake = type("multiprocessing", (), {"get_context": staticmethod(get_context)})
    patch.setattr(subprocess_client, "multiprocessing", fake)


def _answer_in(environment: dict[str, str], pipe: Connection, scratch: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    _answer(pipe, scratch)
