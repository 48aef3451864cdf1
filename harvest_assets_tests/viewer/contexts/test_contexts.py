"""Finding contexts, against the harvest's own files read line by line."""

from __future__ import annotations

import html
import json
import re
import time
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from harvest_assets.errors import HarvestError
from harvest_assets.files.layout import HarvestLayout, viewer_cache_root
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.contexts import build as building
from harvest_assets.viewer.contexts import search as searching
from harvest_assets.viewer.contexts.search import ContextIndex
from harvest_assets.viewer.derived import Derived, Work, compute, folder_of
from harvest_assets.viewer.library import Library
from harvest_assets_tests.viewer.synthetic import write_harvest

TEXTS = [" the", "the", " The", "re", "sult", " of", "<b>", "É", "é", "İ", " a", "&", "ß"]
SIDE = 10


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A harvest whose windows do not overlap: each is in a row of its own."""
    out = tmp_path_factory.mktemp("contexts") / "out"
    write_harvest(out / "harvest" / "few", TEXTS, 40, 6, seed=6)
    return out


@pytest.fixture
def harvest(out: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(out))
    return Library().get("few")


@pytest.fixture
def index(harvest) -> ContextIndex:
    folder = folder_of(viewer_cache_root(), harvest, "contexts")
    if not folder.exists():
        compute(harvest, "contexts", folder, lambda _: None)
    return ContextIndex.open(folder)


@pytest.fixture
def windows() -> list[tuple[str, int, int, list[int], list[float]]]:
    """Key, row, position, tokens and strengths of each kept window."""
    paths = HarvestLayout.of("few")
    keys = pq.read_table(paths.component_index)["component_key"].to_pylist()
    positions = defaultdict(list)
    for row in pq.read_table(paths.example_positions).to_pylist():
        positions[keys[row["flat_index"]]].append((row["row"], row["position"]))
    found = []
    for line in map(json.loads, paths.components.read_text().splitlines()):
        key = line["component_key"]
        for place, e in zip(positions[key], line["activation_examples"], strict=True):
            found.append((key, *place, e["token_ids"], e["ci_values"]))
    for path in (paths.highest_ci_examples, paths.highest_activation_examples):
        for e in pq.read_table(path).to_pylist():
            place = (keys[e["flat_index"]], e["row"], e["position"])
            found.append((*place, e["token_ids"], e["ci_values"]))
    return found


def occurrences(windows, query: str, *, case: bool) -> dict[tuple[int, int], dict[str, float]]:
    """The components that fire in each occurrence, by the place of its first token."""
    found: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)
    for key, row, position, tokens, ci in windows:
        inside = [i for i, token in enumerate(tokens) if token >= 0]
        texts = [TEXTS[tokens[i]] for i in inside]
        whole = "".join(texts) if case else "".join(texts).lower().replace("i̇", "İ")
        wanted = query if case else query.lower().replace("i̇", "İ")
        owner = [n for n, text in enumerate(texts) for _ in text]
        at, after = whole.find(wanted), 0
        while at >= 0:
            first, last = owner[at], owner[at + len(wanted) - 1]
            place = (row, position - SIDE + inside[first])
            there = found[place]
            for i in inside[first : last + 1]:
                if ci[i] > 0:
                    there[key] = max(there.get(key, 0.0), ci[i])
            after = max(at + len(wanted), owner.index(first) + len(texts[first]))
            at = whole.find(wanted, after)
    return found


@pytest.mark.parametrize(
    ("query", "case"),
    [("tHeRe", False), ("The", True), ("é", False), ("É", True), ("İ", False), ("<b>&", True)],
)
def test_places_and_components_are_those_of_the_lines(
    harvest, index, windows, query, case, monkeypatch
):
    monkeypatch.setattr(searching, "MAX_HITS", 10_000)
    monkeypatch.setattr(searching, "HITS_PER_PAGE", 10_000)
    monkeypatch.setattr(searching, "_MAX_COMPONENTS", 100)
    wanted = occurrences(windows, query, case=case)
    found = index.search(harvest, query, case=case)
    assert found.n == len(wanted) > 0
    assert [(h.row, h.position) for h in found.hits] == sorted(wanted)
    for hit in found.hits:
        there = wanted[hit.row, hit.position]
        # The tables have 32-bit floats, the lines their shortest digits.
        assert {c.key: c.ci for c in hit.components} == pytest.approx(there, rel=1e-5)
        assert hit.n_components == len(there)
        text = "".join(t.text for t in hit.tokens)
        assert query.lower() in text.lower()
    n = defaultdict(int)
    for there in wanted.values():
        for key in there:
            n[key] += 1
    assert {o.key: o.hits for o in found.often}.items() <= n.items()
    assert [o.hits for o in found.often] == sorted(n.values(), reverse=True)[:20]


def test_a_token_in_double_quotes_is_that_token(harvest, index, windows):
    wanted = {
        (row, position - SIDE + i)
        for _, row, position, tokens, _ in windows
        for i, token in enumerate(tokens)
        if token == TEXTS.index("the")
    }
    found = index.search(harvest, '"the"', case=False)
    assert (found.n, found.more) == (1000, True)
    assert len(wanted) > 1000
    assert [(h.row, h.position) for h in found.hits] == sorted(wanted)[:20]
    assert index.search(harvest, '"he"', case=False).n == 0


def test_overlapping_windows_are_one_place(harvest, tmp_path: Path, monkeypatch):
    """Two components keep windows of one row, three tokens apart."""
    import numpy as np

    tokens = np.arange(12, dtype=np.int32)
    parts = [
        building.Windows(
            np.array([component], dtype=np.int32),
            np.array([5]),
            np.array([4 + shift]),
            np.array([9]),
            tokens[shift : shift + 9],
            np.where(np.arange(9) == 4, 0.5, 0).astype(np.float32),
        )
        for component, shift in ((1, 0), (2, 3))
    ]
    monkeypatch.setattr(building, "_read", lambda *_: iter(parts))
    building.build(harvest, tmp_path, lambda _: None)
    index = ContextIndex.open(tmp_path)
    assert index.tokens.tolist() == tokens.tolist()
    assert index.fragments.tolist() == [[0], [5], [0]]
    places = zip(index.firing_place.tolist(), index.firing_component.tolist(), strict=True)
    assert list(places) == [(4, 1), (7, 2)]
    (hit,) = index.search(harvest, "sult of<b>é", case=False).hits
    assert (hit.position, [c.key for c in hit.components]) == (
        4,
        [harvest.frame["component_key"][i] for i in (1, 2)],
    )


def test_a_large_harvest_is_indexed_in_part(harvest, tmp_path: Path, monkeypatch):
    """Cut lines give what whole lines give."""
    alive = int((harvest.firing_counts > 0).sum())
    monkeypatch.setattr(building, "MAX_TOKENS", alive * 21 * 3 * 2 + 5)
    assert building.windows_per_list(harvest) == 2
    paths = HarvestLayout.of(harvest.name)
    lines = paths.components.read_bytes().splitlines(keepends=True)
    assert any(len(building._cut(line, 2)) < len(line) for line in lines)
    for line in lines:
        cut, whole = (json.loads(x)["activation_examples"] for x in (building._cut(line, 2), line))
        assert cut[:2] == whole[:2]
    building.build(harvest, tmp_path, lambda _: None)
    assert ContextIndex.open(tmp_path).n_windows <= alive * 3 * 2


def test_the_page_and_hostile_texts(harvest, index):
    client = TestClient(make_app(Library(), "few"), base_url="http://127.0.0.1:3100")
    path = "/run/few/contexts"
    assert "places" not in client.get(path).text
    page = client.get(path, params={"q": "<b>&"}).text
    assert "<b>" not in re.sub(r"<b>[\d.]+</b>", "", page)
    hits = index.search(harvest, "<b>&", case=False).hits
    for key in [c.key for hit in hits for c in hit.components]:
        assert f"/component/{key}" in page
    for q in ("\x00", "\u202e", '"', '""', "'; DROP", "\ud800x"[1:], "ÿ\xff", "a" * 1000):
        answer = client.get(path, params={"q": q, "case": "1", "page": "9999999"})
        assert answer.status_code == 200
        assert (
            f'value="{html.escape(q)}"'.replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
            in answer.text
        )
    assert client.get(path, params={"q": "a" * 1001}).status_code == 404
    raw = client.get(f"{path}?q=%ff%fe")
    assert raw.status_code == 200


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_cache_that_cannot_be_written_is_a_temporary_one(harvest, monkeypatch, tmp_path, kind):
    derived, cache = Derived(), tmp_path / "cache"
    monkeypatch.setattr("harvest_assets.viewer.derived.viewer_cache_root", lambda: cache)
    if kind == "file":
        cache.write_text("a file")
    else:
        (tmp_path / "elsewhere").mkdir()
        cache.symlink_to(tmp_path / "elsewhere")
    begun = []
    monkeypatch.setattr(derived, "_compute", lambda *args: begun.append(args))
    assert isinstance(derived.folder(harvest, "contexts"), Work)
    ((_, _, folder, _),) = begun
    assert cache not in folder.parents
    assert folder.parent.parent.is_dir()
    assert not (tmp_path / "elsewhere").exists() or not any((tmp_path / "elsewhere").iterdir())


def test_what_fails_is_reported_once_and_tried_again(harvest, monkeypatch):
    derived = Derived()

    def fail(_name, _kind, _folder, work):
        work.ended, work.error = True, "No room."

    monkeypatch.setattr(derived, "_compute", fail)
    derived.folder(harvest, "map")
    while not all(work.ended for work in derived._work.values()):
        time.sleep(0.01)
    with pytest.raises(HarvestError, match="No room"):
        derived.folder(harvest, "map")
    assert isinstance(derived.folder(harvest, "map"), Work)


@pytest.mark.usefixtures("index")
def test_older_folders_are_replaced_and_cleaned(harvest):
    from harvest_assets.store.garbage import removable

    folder = viewer_cache_root() / harvest.name
    gone = viewer_cache_root() / "gone"
    for path in (folder / "contexts-1", gone / "contexts-1"):
        path.mkdir(parents=True)
    assert [item.path for item in removable() if "cache" in item.path.parts] == [gone]
    newest = folder_of(viewer_cache_root(), harvest, "contexts")
    compute(harvest, "contexts", newest, lambda _: None)
    assert list(folder.iterdir()) == [newest]
    gone.joinpath("contexts-1").rmdir()
    gone.rmdir()
    kept = viewer_cache_root().rename(viewer_cache_root().with_name("elsewhere"))
    (kept / "gone").mkdir()
    viewer_cache_root().symlink_to(kept)
    assert not [item for item in removable() if "gone" in item.path.parts]
    viewer_cache_root().unlink()
    (kept / "gone").rmdir()
    kept.rename(viewer_cache_root())
