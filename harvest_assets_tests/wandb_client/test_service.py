"""The process of a program that used the W&B client ends, whatever the client's service does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from harvest_assets.files.atomic import process_is_alive
from harvest_assets_tests.loopback_wandb import LoopbackWandb

LISTS = """
from harvest_assets.wandb_client.files import list_files
from harvest_assets.wandb_client.run_name import RunName

print(*list_files(RunName("ent", "proj", "s-00000001")), flush=True)
"""
RECORDS = """
import wandb

run = wandb.init(mode="offline")
run.log({"loss": 1.0})
"""
RECORDS_MORE = RECORDS.replace("offline", 'offline", reinit="create_new')


@contextmanager
def a_program(text: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that waits half a second for the service; it ends when it is told to."""
    server = LoopbackWandb()
    server.add_run("ent/proj/s-00000001", {"model_1.pth": b"1"})
    begin = "from harvest_assets.wandb_client import service; service._SECONDS_TO_END = 0.5"
    with server:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{begin}\n{text}\nprint('done', flush=True)\ninput()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, **server.environment, "WANDB_SILENT": "true"},
        )
        try:
            assert process.stdout.readline() == "model_1.pth\n"
            assert process.stdout.readline() == "done\n"
            yield process
        finally:
            process.kill()
            process.wait()


def services_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    services = psutil.Process(process.pid).children(recursive=True)
    assert services, "the client has a service"
    return services


@pytest.mark.parametrize("stopped", [False, True])
def test_a_program_ends_also_if_the_service_does_not(tmp_path: Path, *, stopped: bool):
    with a_program(LISTS, tmp_path) as process:
        services = services_of(process)
        if stopped:
            for service in services:
                service.suspend()
        process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert not [it for it in services if process_is_alive(it.pid)]


@pytest.mark.parametrize("text", [RECORDS + LISTS, LISTS + RECORDS, LISTS + RECORDS_MORE])
def test_a_program_that_records_a_run_of_its_own_waits_for_the_service(tmp_path: Path, text: str):
    with a_program(text, tmp_path) as process:
        services = services_of(process)
        for service in services:
            service.suspend()
        process.stdin.write("\n")
        process.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=4)
        assert all(process_is_alive(it.pid) for it in services)
        for service in services:
            service.resume()
        process.communicate(timeout=60)
    assert process.returncode == 0
    (recorded,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert recorded.stat().st_size > 0
