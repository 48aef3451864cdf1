"""The process of a program that used the W&B client ends, whatever the client's service does."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from harvest_assets.files.atomic import process_is_alive
from harvest_assets_tests.loopback_wandb import LoopbackWandb

# Says that it has listed, and ends when it is told to; waits half a second for the service.
LISTS = """
import sys
from harvest_assets.wandb_client import service
from harvest_assets.wandb_client.files import list_files
from harvest_assets.wandb_client.run_name import RunName

service._SECONDS_TO_END = 0.5
print(*list_files(RunName("ent", "proj", "s-00000001")), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_a_program_ends_also_if_the_service_does_not(*, stopped: bool):
    server = LoopbackWandb()
    server.add_run("ent/proj/s-00000001", {"model_1.pth": b"1"})
    with server:
        process = subprocess.Popen(
            [sys.executable, "-c", LISTS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **server.environment},
        )
        assert process.stdout.readline() == "model_1.pth\n"
        services = psutil.Process(process.pid).children(recursive=True)
        assert services, "the client has a service"
        if stopped:
            for service in services:
                service.suspend()
        process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert not [it for it in services if process_is_alive(it.pid)]
