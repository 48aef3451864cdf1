"""Names of harvests: every spelling of a run with `@name` at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from harvest_assets.errors import HarvestError
from harvest_assets.store.harvest_name import (
    HarvestReference,
    is_further,
    parse_harvest,
    run_of_key,
)
from harvest_assets.wandb_client.run_name import RunName

RUN = "goodfire/spd/s-d2ec3bfe"
PAGE = "https://wandb.ai/goodfire/spd/runs/s-d2ec3bfe"
SPELLINGS = [
    RUN,
    "goodfire/spd/runs/s-d2ec3bfe",
    "wandb:goodfire/spd/runs/s-d2ec3bfe",
    f" wandb:{RUN} ",
    PAGE,
]
TAILS = ["/", "/overview?nw=x#top", "?nw=a@b", "#a@b", "/@b", "/files/a@b/c.txt", "?a@b=c/d"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", ["dense", "a b", "CI 0.1", "é", "-x"])
def test_every_spelling_takes_a_name(spelling: str, name: str):
    harvest = parse_harvest(f"{spelling.rstrip()}@{name}")
    assert harvest.key == f"{RUN}@{name}"
    assert harvest.default_folder == f"s-d2ec3bfe@{name}"
    assert HarvestReference.from_key(harvest.key).key == harvest.key
    assert (run_of_key(harvest.key), is_further(harvest.key)) == (RUN, True)


@pytest.mark.parametrize("spelling", [*SPELLINGS, *(PAGE + tail for tail in TAILS)])
def test_a_run_alone_is_its_first_harvest(spelling: str):
    assert parse_harvest(spelling).key == RUN
    assert parse_harvest(spelling).default_folder == "s-d2ec3bfe"
    assert (run_of_key(RUN), is_further(RUN)) == (RUN, False)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".x", "a/b", "a\\b", "a|b", "a,b", "a[", "b]", "a...b", "a\nb", "x" * 190],
)
def test_a_name_is_the_plain_name_of_a_folder(name: str):
    with pytest.raises(HarvestError):
        parse_harvest(f"{RUN}@{name}")
    with pytest.raises(HarvestError):
        HarvestReference.from_key(f"{RUN}@{name}")


@pytest.mark.parametrize("text", [f"{RUN}@a@b", "a@b/spd/s-d2ec3bfe", "a/b@c/s-d2ec3bfe"])
def test_an_at_is_nowhere_else_in_a_name(text: str):
    with pytest.raises(HarvestError, match="@"):
        parse_harvest(text)


def test_a_path_that_exists_with_its_at_is_one_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for folder in ("run", "run@dense", "a@b/run"):
        (tmp_path / folder).mkdir(parents=True)
    assert parse_harvest("./run@dense").run.path == tmp_path / "run@dense"
    assert parse_harvest("./run@dense").name is None
    assert parse_harvest("./run@dense@sparse").name == "sparse"
    sparse = parse_harvest("./run@sparse")
    assert (sparse.run.path, sparse.name) == (tmp_path / "run", "sparse")
    deep = parse_harvest(str(tmp_path / "a@b/run") + "@dense")
    assert (deep.run.path, deep.name) == (tmp_path / "a@b/run", "dense")


def test_a_local_run_in_a_folder_with_an_at_keeps_its_key(tmp_path: Path):
    folder = tmp_path / "my@run"
    folder.mkdir()
    first, further = parse_harvest(str(folder)), parse_harvest(f"{folder}@dense")
    assert first.key.startswith("local/my@run/x-")
    assert not is_further(first.key)
    assert RunName.from_key(first.key) == first.run.name
    assert further.key == f"{first.key}@dense"
    assert run_of_key(further.key) == first.key
    assert parse_harvest(further.key).key == further.key
