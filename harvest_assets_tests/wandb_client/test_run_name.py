from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvest_assets.errors import HarvestError
from harvest_assets.wandb_client.run_name import RunName, parse_run

RUN = RunName("goodfire", "spd", "s-d2ec3bfe")
PAGE = "https://wandb.ai/goodfire/spd/runs/s-d2ec3bfe"
SPELLINGS = [
    "goodfire/spd/s-d2ec3bfe",
    "goodfire/spd/runs/s-d2ec3bfe",
    "wandb:goodfire/spd/runs/s-d2ec3bfe",
    "wandb:goodfire/spd/s-d2ec3bfe",
    "  wandb: goodfire/spd/s-d2ec3bfe\n",
    PAGE,
    PAGE + "/",
    PAGE + "/overview",
    PAGE + "/files/model_3.pth?x=1#y",
    PAGE + "?nw=nwuser",
    PAGE + "#here",
    "wandb:" + PAGE,
    " wandb: " + PAGE + "?nw=1 ",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_all_spellings_mean_the_same_run(text: str) -> None:
    reference = parse_run(text)
    assert reference.name == RUN
    assert reference.path is None


@pytest.mark.parametrize("run_id", ["d2ec3bfe", "s-d2ec3bfe", "0-12345678"])
def test_run_ids(run_id: str) -> None:
    assert parse_run(f"e/p/{run_id}").name.run_id == run_id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "wandb:",
        "s-d2ec3bfe",
        "spd/s-d2ec3bfe",
        "e/p/D2EC3BFE",
        "e/p/d2ec3bf",
        "e/p/d2ec3bfe0",
        "e/p/ss-d2ec3bfe",
        "e/p/s_d2ec3bfe",
        "e/p/-d2ec3bfe",
        "e/p/s-d2ec3bfe/",
        "e/p/run/s-d2ec3bfe",
        "e/p/runs/runs/s-d2ec3bfe",
        "/p/s-d2ec3bfe",
        "e//s-d2ec3bfe",
        "../p/s-d2ec3bfe",
        "e/../s-d2ec3bfe",
        "./p/s-d2ec3bfe",
        "e/./s-d2ec3bfe",
        "e|f/p/s-d2ec3bfe",
        "e,f/p/s-d2ec3bfe",
        "e/[p]/s-d2ec3bfe",
        "e/p.../s-d2ec3bfe",
        "e/.../s-d2ec3bfe",
        "e/p\0q/s-d2ec3bfe",
        "e/p\nq/s-d2ec3bfe",
        "e/p\x7f/s-d2ec3bfe",
        "e/p /s-d2ec3bfe",
        "e/p/s-d2ec3bfe\0",
        PAGE + "abc",
        PAGE.replace("https", "http"),
        PAGE.replace("wandb.ai", "example.org"),
        PAGE.replace("/spd/", "/%2e%2e/"),
        PAGE.replace("/spd/", "/a%2Fb/"),
        PAGE.replace("/spd/", "/a%7Cb/"),
        PAGE.replace("/runs/", "/"),
    ],
)
def test_anything_else_is_refused_by_name(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HarvestError) as caught:
        parse_run(text)
    assert "\n" not in str(caught.value)


def test_the_refusal_names_the_value_and_what_is_accepted() -> None:
    with pytest.raises(HarvestError, match=r"'nonsense' is not a valid run; .*entity/project/"):
        parse_run("nonsense")


def test_how_a_name_is_written() -> None:
    assert RUN.key == "goodfire/spd/s-d2ec3bfe"
    assert RUN.wandb_path == "wandb:goodfire/spd/runs/s-d2ec3bfe"
    assert RUN.url == PAGE
    assert RunName.from_key(RUN.key) == RUN


@pytest.mark.parametrize("key", ["e/p", "e/p/runs/d2ec3bfe", "e/../d2ec3bfe", "e/p/../d2ec3bfe"])
def test_keys_that_are_none(key: str) -> None:
    with pytest.raises(HarvestError):
        RunName.from_key(key)


def test_a_run_directory_and_its_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    folder.mkdir()
    checkpoint = folder / "model_3.pth"
    checkpoint.touch()
    for path in (folder, checkpoint):
        reference = parse_run(str(path))
        digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
        assert reference.path == path
        assert reference.name == RunName("local", "my run", f"x-{digest}")
        assert parse_run(reference.name.key).name == reference.name


def test_links_to_one_directory_are_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    assert parse_run(str(tmp_path / "link")).name == parse_run(f"{folder}/.").name


def test_a_name_is_tried_before_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spd_out" / "runs" / "d2ec3bfe").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_run("spd_out/runs/d2ec3bfe").path is None
    forced = parse_run("./spd_out/runs/d2ec3bfe")
    assert forced.path == tmp_path / "spd_out" / "runs" / "d2ec3bfe"
    assert forced.name.project == "d2ec3bfe"


def test_a_relative_path_is_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    for text in (".", "../run", " ./ "):
        assert parse_run(text).name == parse_run(str(tmp_path / "run")).name


def test_a_local_name_is_a_name_like_others() -> None:
    assert parse_run("local/spd/s-0ddd38e5").name == RunName("local", "spd", "s-0ddd38e5")


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    (tmp_path / "final_config.yaml").touch()
    with pytest.raises(HarvestError):
        parse_run(str(tmp_path / "final_config.yaml"))


@pytest.mark.parametrize("folder", ["a|b", "a,b", "a[1]", "a...b"])
def test_folders_that_cannot_be_keys_are_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    with pytest.raises(HarvestError, match="Rename it"):
        parse_run(str(tmp_path / folder))


_part = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True).filter(
    lambda part: "..." not in part
)
_run_id = st.from_regex(r"([a-z0-9]-)?[a-z0-9]{8}", fullmatch=True)


@given(_part, _part, _run_id)
def test_every_spelling_of_any_name_comes_back(entity: str, project: str, run_id: str) -> None:
    name = RunName(entity, project, run_id)
    for text in (name.key, name.wandb_path, name.url, f"{name.url}/logs", f" wandb:{name.key} "):
        assert parse_run(text).name == name
    assert RunName.from_key(name.key) == name


@given(st.one_of(st.text(), st.from_regex(r"[^/]{0,9}/[^/]{0,9}/[a-z0-9]{8}", fullmatch=True)))
def test_no_text_leads_out_of_its_folder(text: str) -> None:
    try:
        name = parse_run(text).name
    except HarvestError:
        return
    for part in name.key.split("/"):
        assert part not in ("", ".", "..")
        assert part.isprintable()
        assert not set(part) & set("/\\|,[]")
        assert "..." not in part
