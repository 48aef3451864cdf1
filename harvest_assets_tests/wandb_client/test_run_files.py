from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import wandb

from harvest_assets.decompositions.spd.checkpoint import Checkpoint
from harvest_assets.errors import HarvestError
from harvest_assets.wandb_client.run_files import (
    RunFiles,
    choose_checkpoint,
    fetch_run,
    fetch_target,
)
from harvest_assets.wandb_client.run_name import RunName, parse_run
from harvest_assets_tests.loopback_wandb import API_KEY, LoopbackWandb

KEY = "ent/proj/s-d2ec3bfe"
BIG = bytes(range(256)) * 4000
FILES = {
    "final_config.yaml": b"seed: 0\n",
    "model_900.pth": b"older",
    "model_1000.pth": BIG,
    "model_best.pth": b"another",
    "wandb-metadata.json": b"{}",
    "media/table.json": b"{}",
}
TARGET_FILES = {
    "final_config.yaml": b"a: 1\n",
    "model_config.yaml": b"n_layer: 2\n",
    "model_step_999.pt": b"older",
    "model_step_2000.pt": b"newest",
    "tokenizer.json": b"{}",
    "ln-stds.json": b"[]",
    "output.log": b"",
}
FETCH = (
    "import sys; from harvest_assets.wandb_client.run_files import fetch_run;"
    "from harvest_assets.wandb_client.run_name import parse_run;"
    "print(fetch_run(parse_run(sys.argv[1])).checkpoint)"
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackWandb]:
    with LoopbackWandb() as loopback:
        for name, value in loopback.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HOME", str(tmp_path))  # no .netrc of the person who runs this
        yield loopback
        wandb.teardown()


def _cached(out_dir: Path) -> Path:
    return out_dir / "runs" / "proj-s-d2ec3bfe"


def _wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def _fill(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize(
    ("names", "step", "chosen"),
    [
        (["model_900.pth", "model_1000.pth"], None, "model_1000.pth"),
        (["model_900.pth", "model_1000.pth"], 900, "model_900.pth"),
        (["model_900.pth", "model_1000.pth"], 90, None),
        (["model_0.pth"], 0, "model_0.pth"),
        (["model_900.pth", "model_best.pth"], None, "model_900.pth"),
        (["model_best.pth", "optimizer_5.pth"], None, "model_best.pth"),
        (["model.pth"], None, "model.pth"),
        (["model.pth"], 3, None),
        (["model_best.pth", "model_last.pth"], None, None),
        (["model_-5.pth", "model_3.pth"], None, "model_3.pth"),
        (["optimizer_5.pth", "final_config.yaml", "model_5.pt", "model_5.pth.tmp"], None, None),
        ([], None, None),
    ],
)
def test_choice_of_checkpoint(names: list[str], step: int | None, chosen: str | None) -> None:
    assert choose_checkpoint(names, step) == chosen
    assert choose_checkpoint(reversed(names), step) == chosen


def test_a_directory_is_used_as_it_is(tmp_path: Path) -> None:
    folder = _fill(tmp_path / "run", "final_config.yaml", "model_9.pth", "model_10.pth")
    (folder / "model_11.pth").mkdir()
    reference = parse_run(str(folder))
    files = fetch_run(reference)
    expected = RunFiles(
        reference.name, folder / "final_config.yaml", folder / "model_10.pth", step=10
    )
    assert files == expected
    assert fetch_run(reference, step=9).checkpoint == folder / "model_9.pth"


@pytest.mark.parametrize("in_cache", [False, True])
def test_of_a_run_in_progress_the_newest_complete_checkpoint_is_taken(
    in_cache: bool, tmp_path: Path, out_dir: Path
) -> None:
    folder = _fill(_cached(out_dir) if in_cache else tmp_path / "run", "final_config.yaml")
    reference = parse_run(KEY if in_cache else str(folder))
    for step in (1, 200, 1000):
        torch.save({"a": torch.full((4000,), float(step))}, folder / f"model_{step}.pth")
    (folder / "model_best.pth").write_bytes((folder / "model_1.pth").read_bytes())
    whole = (folder / "model_1000.pth").read_bytes()
    assert fetch_run(reference).step == 1000
    for size in (0, 1, 1000, len(whole) // 2, len(whole) - 1):
        (folder / "model_1000.pth").write_bytes(whole[:size])
        assert fetch_run(reference).step == 200
        assert fetch_run(reference, step=1).step == 1
        # Asked for by its step, it is opened, and its problem is reported.
        asked = fetch_run(reference, step=1000)
        with pytest.raises(HarvestError, match=r"model_1000\.pth .*may be cut short"):
            Checkpoint.open(asked.checkpoint)
    (folder / "model_1000.pth").write_bytes(whole)
    assert fetch_run(reference).step == 1000
    for step in (1, 200, 1000):
        (folder / f"model_{step}.pth").write_bytes(whole[:500])
    assert fetch_run(reference).step == 1000


def test_a_checkpoint_file_is_used_as_it_is(tmp_path: Path) -> None:
    folder = _fill(tmp_path / "run", "final_config.yaml", "model_9.pth", "model_best.pth")
    assert fetch_run(parse_run(str(folder / "model_9.pth"))).step == 9
    files = fetch_run(parse_run(str(folder / "model_best.pth")))
    assert (files.checkpoint, files.step) == (folder / "model_best.pth", None)
    with pytest.raises(HarvestError, match="not the checkpoint of step 8"):
        fetch_run(parse_run(str(folder / "model_9.pth")), step=8)


def test_an_invalid_path_is_reported(tmp_path: Path) -> None:
    bare = _fill(tmp_path / "bare", "model_1.pth")
    for path in (bare, bare / "model_1.pth"):
        with pytest.raises(HarvestError, match=r"no final_config\.yaml"):
            fetch_run(parse_run(str(path)))
    empty = _fill(tmp_path / "empty", "final_config.yaml")
    with pytest.raises(HarvestError, match=r"no checkpoint model_<integer>\.pth.*: none"):
        fetch_run(parse_run(str(empty)))
    other = _fill(tmp_path / "other", "final_config.yaml", "model_1.pth")
    reference = parse_run(str(other / "model_1.pth"))
    with pytest.raises(HarvestError, match=r"model_7\.pth; .*: model_1\.pth"):
        fetch_run(parse_run(str(other)), step=7)
    (other / "model_1.pth").unlink()
    with pytest.raises(HarvestError, match=r"model_1\.pth does not exist"):
        fetch_run(reference)


def test_a_cached_run_needs_no_request(server: LoopbackWandb, out_dir: Path) -> None:
    folder = _fill(_cached(out_dir), "final_config.yaml", "model_5.pth")
    assert fetch_run(parse_run(KEY)).checkpoint == folder / "model_5.pth"
    assert fetch_run(parse_run(KEY), step=5).step == 5
    assert server.operations == []


def test_a_run_is_downloaded_once(server: LoopbackWandb, out_dir: Path) -> None:
    server.add_run(KEY, FILES)
    files = fetch_run(parse_run(KEY))
    assert files.checkpoint == _cached(out_dir) / "model_1000.pth"
    assert files.step == 1000
    assert files.checkpoint.read_bytes() == BIG
    assert files.config.read_bytes() == FILES["final_config.yaml"]
    assert sorted(server.downloads) == [f"{KEY}/final_config.yaml", f"{KEY}/model_1000.pth"]
    assert [path.name for path in (out_dir / "runs").iterdir()] == ["proj-s-d2ec3bfe"]
    asked = len(server.operations)
    assert fetch_run(parse_run(KEY)) == files
    assert len(server.operations) == asked


def test_another_step_is_fetched_beside_the_first(server: LoopbackWandb, out_dir: Path) -> None:
    server.add_run(KEY, FILES)
    fetch_run(parse_run(KEY))
    assert fetch_run(parse_run(KEY), step=900).checkpoint.read_bytes() == b"older"
    assert fetch_run(parse_run(KEY)).step == 1000
    with pytest.raises(HarvestError, match=r"no checkpoint model_77\.pth"):
        fetch_run(parse_run(KEY), step=77)
    assert sorted(path.name for path in _cached(out_dir).iterdir()) == [
        "final_config.yaml",
        "model_1000.pth",
        "model_900.pth",
    ]


def test_a_run_with_many_files_is_listed_to_its_end(server: LoopbackWandb, out_dir: Path) -> None:
    many = {f"media/images/{i:05}.png": b"" for i in range(1200)}
    server.add_run(KEY, {**many, **FILES})
    assert fetch_run(parse_run(KEY)).checkpoint.is_relative_to(out_dir)


def test_runs_that_cannot_be_had(server: LoopbackWandb, out_dir: Path) -> None:
    server.add_run("ent/proj/aaaaaaaa", {"model_1.pth": b"x"})
    server.add_run("ent/proj/bbbbbbbb", {"final_config.yaml": b"x", "optimizer.pth": b"x"})
    with pytest.raises(HarvestError, match="ent/proj/cccccccc is not on W&B"):
        fetch_run(parse_run("ent/proj/cccccccc"))
    with pytest.raises(HarvestError, match=r"no final_config\.yaml"):
        fetch_run(parse_run("ent/proj/aaaaaaaa"))
    with pytest.raises(HarvestError, match=r"no checkpoint .*: optimizer\.pth"):
        fetch_run(parse_run("ent/proj/bbbbbbbb"))
    asked = len(server.operations)
    with pytest.raises(HarvestError, match="local run"):
        fetch_run(parse_run("local/proj/s-0ddd38e5"))
    assert len(server.operations) == asked
    assert server.downloads == []
    assert not out_dir.exists()


def test_a_short_download_is_not_kept(server: LoopbackWandb, out_dir: Path) -> None:
    server.add_run(KEY, FILES, reported_sizes={"model_1000.pth": len(BIG) + 1})
    with pytest.raises(HarvestError, match=r"s-d2ec3bfe") as caught:
        fetch_run(parse_run(KEY))
    assert API_KEY not in str(caught.value)
    assert [path for path in out_dir.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "name",
    [
        "model/../../../../pwned.pth",
        "model/x.pth",
        "model\\..\\pwned.pth",
        "model_\n.pth",
        f"model_{'9' * 5000}.pth",
        "model" + "x" * 300 + ".pth",
    ],
)
def test_a_file_whose_name_leads_elsewhere_is_no_checkpoint(
    server: LoopbackWandb, out_dir: Path, name: str
) -> None:
    server.add_run(KEY, {"final_config.yaml": b"seed: 0\n", name: BIG})
    with pytest.raises(HarvestError, match="has no checkpoint"):
        fetch_run(parse_run(KEY))
    assert server.downloads == []
    assert [path for path in out_dir.parent.rglob("*.pth") if path.is_file()] == []


@pytest.mark.parametrize(
    ("name", "problem"),
    [("final_config.yaml", "200.0 MB at most"), ("model_1000.pth", "free some")],
)
def test_what_is_too_large_is_not_downloaded(
    server: LoopbackWandb, out_dir: Path, name: str, problem: str
) -> None:
    server.add_run(KEY, FILES, reported_sizes={name: 10**15})
    with pytest.raises(HarvestError, match=problem):
        fetch_run(parse_run(KEY))
    assert server.downloads == []
    assert not list(out_dir.rglob("*.pth"))


@pytest.mark.usefixtures("out_dir", "server")
def test_without_a_key_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(HarvestError, match=r"wandb login.*WANDB_API_KEY"):
        fetch_run(parse_run(KEY))


@pytest.mark.usefixtures("out_dir", "server")
def test_an_impossible_key_is_reported_but_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cret")
    with pytest.raises(HarvestError, match="API key") as caught:
        fetch_run(parse_run(KEY))
    assert "s3cret" not in str(caught.value)


@pytest.mark.usefixtures("out_dir", "server")
def test_a_server_out_of_reach() -> None:
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", FETCH, KEY],
        env={**os.environ, **nowhere},
        capture_output=True,
        check=False,
        timeout=60,
    )
    stderr = done.stderr.decode()
    assert f"Error: {KEY} could not be downloaded from W&B" in stderr
    assert "http://127.0.0.1:9 does not answer" in stderr
    assert API_KEY not in stderr


def test_a_folder_that_cannot_be_written(
    server: LoopbackWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_run(KEY, FILES)
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "file"))
    with pytest.raises(HarvestError, match="Not a directory"):
        fetch_run(parse_run(KEY))


def test_a_killed_download_is_not_taken_for_a_whole_one(
    server: LoopbackWandb, out_dir: Path
) -> None:
    server.add_run(KEY, FILES)
    server.gate.clear()
    with subprocess.Popen([sys.executable, "-c", FETCH, KEY], env=dict(os.environ)) as process:
        assert server.download_begun.wait(60)
        process.kill()
    server.gate.set()
    assert [path.name for path in _cached(out_dir).iterdir()] == []
    assert fetch_run(parse_run(KEY)).checkpoint.read_bytes() == BIG


def test_two_processes_at_once_do_no_harm(server: LoopbackWandb, out_dir: Path) -> None:
    server.add_run(KEY, FILES)
    server.gate.clear()
    command = [sys.executable, "-c", FETCH, KEY]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    _wait_for(lambda: server.downloads.count(f"{KEY}/model_1000.pth") == 2)
    server.gate.set()
    answers = [process.communicate(timeout=120)[0].decode().strip() for process in processes]
    assert answers == [str(_cached(out_dir) / "model_1000.pth")] * 2
    assert (_cached(out_dir) / "model_1000.pth").read_bytes() == BIG


def test_a_target_is_downloaded_once(server: LoopbackWandb, out_dir: Path) -> None:
    name = RunName("ent", "proj", "d2ec3bfe")
    server.add_run(name.key, TARGET_FILES)
    folder = fetch_target(name)
    assert folder == out_dir / "runs" / "proj-d2ec3bfe"
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    dropped = ("model_step_999.pt", "output.log")
    assert kept == {name: data for name, data in TARGET_FILES.items() if name not in dropped}
    asked = len(server.operations)
    assert fetch_target(name) == folder
    assert len(server.operations) == asked


def test_a_target_needs_only_its_configs(server: LoopbackWandb, out_dir: Path) -> None:
    name = RunName("ent", "proj", "d2ec3bfe")
    needed = {key: TARGET_FILES[key] for key in ("final_config.yaml", "model_config.yaml")}
    server.add_run(name.key, needed)
    assert {path.name for path in fetch_target(name).iterdir()} == set(needed)
    lacking = RunName("ent", "proj", "eeeeeeee")
    server.add_run(lacking.key, {"final_config.yaml": b""})
    with pytest.raises(HarvestError, match=r"not a target model.*model_config\.yaml"):
        fetch_target(lacking)
    assert not (out_dir / "runs" / "proj-eeeeeeee").exists()


def test_where_a_target_is_searched_first(server: LoopbackWandb, out_dir: Path) -> None:
    name = RunName("ent", "proj", "d2ec3bfe")
    needed = ("final_config.yaml", "model_config.yaml")
    older = _fill(out_dir / "pretrain_cache" / "proj-d2ec3bfe", *needed)
    assert fetch_target(name) == older
    newer = _fill(out_dir / "runs" / "proj-d2ec3bfe", *needed)
    assert fetch_target(name) == newer
    assert server.operations == []


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, harvest_assets.wandb_client.run_files, harvest_assets.data.data;"
        "print([m for m in ('wandb', 'torch', 'datasets', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"
