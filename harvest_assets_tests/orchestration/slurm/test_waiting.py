"""A job that no node can run is refused before anything is written; why one waits is said."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from harvest_assets.errors import HarvestError
from harvest_assets.orchestration.slurm.nodes import require_fitting_node
from harvest_assets.orchestration.slurm.settings import SlurmSettings
from harvest_assets.orchestration.slurm.waiting import explanation
from harvest_assets_tests.orchestration.slurm.commands import Place, program
from harvest_assets_tests.orchestration.slurm.one_node import CPUS, OneNode

NODES = """\
cpu|128|(null)
main*|16|gpu:a100:4(S:0-1),nvme:1
main*|64|gpu:2
main*|8|gpu:h100:8(IDX:0,2-3)
desk|8|gpu:2080ti:4
desk|8|gpu:3090:2(S:0-1)
desk|4|gpu:odd:form:1
short|2|gpu"""


def check(folder: Path, monkeypatch: pytest.MonkeyPatch, *, gpu: bool = True, **given: str) -> None:
    program(folder, "sinfo", given.pop("nodes", NODES))
    given.setdefault("partition", "main")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name, value in given.items():
        monkeypatch.setenv(f"HARVEST_SLURM_{name.upper()}", value)
    require_fitting_node(SlurmSettings.from_environment(), gpu=gpu)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"cpus": "16", "gres": "gpu:a100:4"},
        {"cpus": "64", "gres": "gpu:2"},
        {"cpus": "8", "gres": "gpu:8"},
        {"gres": "gpu:a100:2,nvme"},
        {"cpus": "64", "gres": "none"},
        {"partition": "cpu,short", "cpus": "2"},
        {"partition": "desk", "gres": "gpu:4"},
        {"partition": "desk", "gres": "gpu:3090:2", "cpus": "8"},
        {"partition": "desk", "gres": "gpu:2080ti:1"},
        {"partition": "desk", "gres": "tpu:9", "cpus": "4"},  # a node whose GRES cannot be read
        {"partition": "cpu", "cpus": "128", "gres": "none"},
        {"args": "--partition=cpu", "gres": "none", "cpus": "100"},
        # What is requested, or what there is, is not known here: the cluster decides.
        {"cpus": "999", "args": "--cpus-per-task=1"},
        {"cpus": "999", "nodes": ""},
        {"cpus": "999", "partition": ""},
        {"cpus": "999", "cluster": "local"},
    ],
)
def test_a_request_that_a_node_meets_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
):
    check(tmp_path, monkeypatch, **given)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"cpus": "65"}, "more than 64 cores.*HARVEST_SLURM_CPUS=64"),
        ({"partition": "short"}, "partition short has more than 2 cores"),
        ({"args": "--partition short"}, "partition short has more than 2 cores"),
        ({"gres": "gpu:9"}, "gpu:9.*gpu:2 or gpu:a100:4.*HARVEST_SLURM_GRES=none"),
        ({"gres": "gpu:v100:1"}, "gpu:v100:1"),
        ({"partition": "desk", "gres": "gpu:3090:3", "cpus": "8"}, "gpu:3090:3"),
        ({"partition": "", "nodes": "only*|4|gpu:2", "gres": "gpu:3"}, "only partition"),
        ({"gres": "gpu:1,tape:1"}, "tape:1"),
        ({"partition": "cpu"}, "partition cpu have no GPU"),
        ({"cpus": "64", "gres": "gpu:4"}, "both 64 cores and gpu:4"),
    ],
)
def test_a_request_that_no_node_meets_is_refused_with_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], named: str
):
    with pytest.raises(HarvestError, match=named):
        check(tmp_path, monkeypatch, **given)


def test_a_job_without_a_gpu_is_held_against_its_own_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    given = {"gres": "gpu:99", "cpus": "100", "cpu_args": "--partition=cpu"}
    check(tmp_path, monkeypatch, gpu=False, **given)
    with pytest.raises(HarvestError, match="100"):
        check(tmp_path, monkeypatch, **given)


def test_explanations_name_variables_that_exist():
    reasons = ["PartitionConfig", "PartitionTimeLimit", "PartitionDown", "InvalidAccount"]
    reasons += ["InvalidQOS", "BadConstraints", "AssocMaxJobsLimit", "QOSMaxCpuPerUserLimit"]
    reasons += ["ReqNodeNotAvail, UnavailableNodes:n[1-3]", "JobHeldAdmin"]
    for reason in reasons:
        text = explanation(reason)
        assert text.startswith(reason), text
        assert len(text) > len(reason) + 10
        for name in re.findall("HARVEST_SLURM_([A-Z_]+)", text):
            assert name.lower() in SlurmSettings.model_fields
    assert explanation("Priority") == explanation("Resources")
    assert explanation("SomethingOfTomorrow") == "SomethingOfTomorrow"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_real_cluster_refuses_at_once_what_cannot_run_and_says_why_a_job_waits(
    node: OneNode, tiny_run: Path, tmp_path: Path
):
    options = [str(tiny_run), "--n_batches", "2", "--batch_size", "4"]
    for name, value in (("CPUS", str(CPUS + 1)), ("GRES", "gpu:3")):
        env = {f"HARVEST_SLURM_{name}": value, "HARVEST_SLURM_PARTITION": "main", **node.env}
        place = Place(tmp_path / name, tmp_path, **env)
        command = place.start(*options)
        out, _ = command.communicate(timeout=60)
        assert command.returncode == 1
        assert f"HARVEST_SLURM_{name} is {value}" in out
        assert not list(place.out.iterdir())
        assert not node.jobs()

    host = socket.gethostname().partition(".")[0]
    node("scontrol", "update", f"nodename={host}", "state=drain", "reason=cleaning")
    place = Place(tmp_path / "drained", tmp_path, HARVEST_SLURM_CPUS="1", **node.env)
    command = place.start(*options)
    try:
        assert command.stdout is not None
        lines = iter(command.stdout.readline, "")
        said = next(line for line in lines if "waiting: " in line)
        assert "drained" in said
        (job,) = node.jobs(state="PENDING")
        assert job in said
    finally:
        node("scontrol", "update", f"nodename={host}", "state=resume")
    out, _ = command.communicate(timeout=120)
    assert command.returncode == 0, out
    assert all(place.files().values())
