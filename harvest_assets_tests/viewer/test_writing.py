"""What people write on pages, and who may."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
from collections.abc import Iterator

import polars as pl
import pytest
from starlette.testclient import TestClient

from harvest_assets.files.atomic import write_json
from harvest_assets.files.layout import HarvestLayout
from harvest_assets.interpretations import entry_files, lists
from harvest_assets.interpretations.entries import Edit, Label, Score, sha256_of_text
from harvest_assets.interpretations.lists import ComponentList
from harvest_assets.interpretations.storage import Interpretations
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets_tests.viewer.hostile import TEXTS

RUN = "/run/hostile"
KEY, OTHER = "h.0.mlp.c_fc:1", "h.3.mlp.c_fc:2"
PAGE = f"{RUN}/component/{KEY}"
OWN = {"origin": "http://127.0.0.1:3100"}


@pytest.fixture(autouse=True)
def clean(paths: HarvestLayout) -> Iterator[None]:
    yield
    shutil.rmtree(paths.interpretations, ignore_errors=True)


@pytest.fixture
def stored(paths: HarvestLayout) -> Interpretations:
    return Interpretations(paths)


def form_of(client: TestClient, address: str = PAGE) -> dict[str, str]:
    """The fields of the form on a page, as a browser would send them unchanged."""
    page = client.get(address).text
    page = page[page.index('class="writes"') :]
    page = page[: page.index("</form>")]
    fields = {}
    for tag in re.findall(r"<input[^>]*>", page):
        values = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        if values.get("type") != "checkbox" or " checked" in tag:
            fields[values["name"]] = html.unescape(values["value"])
    note = re.search(r"<textarea[^>]*>\n(.*)</textarea>", page, re.DOTALL)
    return {**fields, "note": html.unescape(note[1]), "person": "Ann"}


def test_what_a_person_writes_is_kept_and_shown(client, stored: Interpretations):
    fields = form_of(client) | {
        "label": " plural <b>nouns</b> ",
        "tags": "syntax, nouns",
        "note": "one\r\ntwo",
        "starred": "1",
    }
    answer = client.post(f"{PAGE}?sort=density", data=fields, headers=OWN, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == f"{PAGE}?sort=density#meaning"
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    row = stored.current().row(0, named=True)
    assert row["label"] == "plural <b>nouns</b>"
    assert (row["label_source"], row["label_author"], row["starred"]) == ("person", "Ann", True)
    assert (row["note"], row["tags"]) == ("one\ntwo", ["syntax", "nouns"])
    page = client.get(PAGE).text
    assert "plural &lt;b&gt;nouns&lt;/b&gt;" in page
    assert 'name="person" maxlength="300" required value="Ann"' in page  # from the cookie
    assert len(stored.edits()) == 4
    client.post(PAGE, data=form_of(client), headers=OWN)
    assert len(stored.edits()) == 4  # nothing was changed


def test_two_people_with_the_same_page_open_lose_nothing(client, stored: Interpretations):
    stored.add([Edit(KEY, "note", "before", "Eve"), Label(KEY, "model's", 0.5, "", "model", "m")])
    first, second = form_of(client), form_of(client)
    assert first["label"] == ""  # the model's label is not taken for the person's own
    client.post(PAGE, data=first | {"label": "mine", "starred": "1"}, headers=OWN)
    client.post(PAGE, data=second | {"note": "after", "person": "Bob"}, headers=OWN)
    row = stored.current().row(0, named=True)
    assert (row["label"], row["starred"], row["note"]) == ("mine", True, "after")
    assert [json.loads(value) for value in stored.edits()["value"]] == [
        "before",
        "mine",
        True,
        "after",
    ]
    assert stored.edits()["author"].to_list() == ["Eve", "Ann", "Ann", "Bob"]
    page = client.get(PAGE).text
    assert all(
        f"<bdi>{value}</bdi>" in page for value in ("before", "mine", "after", "model&#39;s")
    )


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "null"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "https://127.0.0.1:3100"},
        {**OWN, "sec-fetch-site": "cross-site"},
        {**OWN, "sec-fetch-site": "same-site"},
        {"origin": "http://evil.example:3100", "host": "evil.example:3100"},
        {"origin": "http://192.0.2.7:3100", "host": "192.0.2.7:3100"},
    ],
)
def test_forms_of_other_pages_are_refused(client, stored: Interpretations, headers):
    fields = form_of(client) | {"label": "theirs"}
    assert client.post(PAGE, data=fields, headers=headers).status_code == 403
    assert client.post(f"{RUN}/lists", data=fields, headers=headers).status_code == 403
    assert not stored.history()


@pytest.mark.parametrize("token", [None, "", "x" * 43, "\u00e9"])
def test_forms_without_the_token_are_refused(client, stored: Interpretations, token):
    fields = form_of(client) | {"label": "theirs", "title": "t"}
    del fields["form_token"]
    fields |= {} if token is None else {"form_token": token}
    assert client.post(PAGE, data=fields, headers=OWN).status_code == 403
    assert client.post(f"{RUN}/lists", data=fields, headers=OWN).status_code == 403
    assert not stored.history()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::"])  # noqa: S104
def test_a_server_that_others_can_reach_is_read_only(
    client, paths: HarvestLayout, stored: Interpretations, host: str
):
    fields = form_of(client) | {"label": "theirs"}
    stored.add([Label(KEY, "shown", 0.5, "", "model", "m")])
    open_to_all = TestClient(
        make_app(Library(), paths.root.name, host), base_url="http://127.0.0.1"
    )
    for address in (PAGE, f"{RUN}?labelled=1"):
        page = open_to_all.get(address)
        assert "shown" in page.text
        assert 'method="post"' not in page.text
        assert 'name="form_token"' not in page.text
    own = {"origin": "http://127.0.0.1"}
    assert open_to_all.post(PAGE, data=fields, headers=own).status_code == 403
    assert stored.current()["label"].to_list() == ["shown"]


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"label": "x" * 301}, 400),
        ({"person": " "}, 400),
        ({"tags": ",".join(map(str, range(21)))}, 400),
        ({"note": "x" * 200_000}, 413),
    ],
)
def test_what_cannot_be_kept_is_refused_whole(client, stored, changed, status: int):
    fields = form_of(client) | {"starred": "1"} | changed
    assert client.post(PAGE, data=fields, headers=OWN).status_code == status
    assert (
        client.post(f"{RUN}/component/no:1", data=form_of(client), headers=OWN).status_code == 404
    )
    assert not stored.history()


def test_a_folder_that_cannot_be_written_is_reported(client, paths, stored, monkeypatch):
    def refuse(*_: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied", str(paths.interpretation_entries))

    fields = form_of(client) | {"starred": "1", "title": "t"}
    monkeypatch.setattr("harvest_assets.interpretations.entry_files.write", refuse)
    monkeypatch.setattr("harvest_assets.interpretations.lists.write_json", refuse)
    for address in (PAGE, f"{RUN}/lists"):
        answer = client.post(address, data=fields, headers=OWN)
        assert answer.status_code == 500
        assert "Nothing was kept" in answer.text
        assert "SPD_OUT_DIR" in answer.text
    assert not stored.history()


def test_hostile_texts_are_text(client, stored: Interpretations):
    texts = [text for text in TEXTS if text.split() and len(text) <= 40 and "," not in text][:20]
    for text in texts:
        stored.add(
            [
                Label(OTHER, text, 0.5, text, "model", text),
                Edit(OTHER, "note", text, text),
                Edit(OTHER, "tags", (text,), text),
            ]
        )
    for address in (
        RUN,
        f"{RUN}?labelled=1&tag=x",
        f"{RUN}/component/{OTHER}",
        f"{RUN}/export.html?key={OTHER}",
    ):
        page = client.get(address)
        assert page.status_code == 200
        assert not re.search(r"<(img|svg on|iframe|/script><script)", page.text)
        scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page.text, re.DOTALL)
        assert all(body == "" for _, body in scripts)


def some_entries() -> list:
    return [
        Label(KEY, "Plural nouns", 0.5, "it reads 's'", "model", "m"),
        Label(OTHER, "verbs", 0.5, "", "model", "m"),
        Edit(OTHER, "starred", value=True, author="Ann"),
        Edit(OTHER, "tags", ("syntax",), "Ann"),
        Score(KEY, "intruder", 0.25, 0.1, 0.5, 0.2, 10, 1, "m"),
        Score(OTHER, "intruder", 0.75, 0.4, 0.9, 0.2, 10, 0, "m"),
        Score(KEY, "detection", 0.9, 0.8, 1.0, 0.5, 5, 0, "m", label_sha256=sha256_of_text("old")),
    ]


def shown_keys(client: TestClient, query: str) -> list[str]:
    page = client.get(f"{RUN}?{query}").text
    return re.findall(r'name="key" value="([^"]+)"', page)


def test_the_table_is_searched_filtered_and_sorted(client, stored: Interpretations):
    assert "score_" not in client.get(RUN).text
    all_keys = shown_keys(client, "")
    stored.add(some_entries())
    assert shown_keys(client, "") == all_keys
    assert shown_keys(client, "label=plural") == [KEY]
    assert shown_keys(client, "label=syn+verb") == [OTHER]  # in different fields
    assert shown_keys(client, "label=syn+plural") == []
    assert shown_keys(client, "label=syntax") == [OTHER]
    assert shown_keys(client, "starred=1") == [OTHER]
    assert shown_keys(client, "tag=syntax") == [OTHER]
    assert set(shown_keys(client, "labelled=1")) == {KEY, OTHER}
    assert shown_keys(client, "sort=score_intruder")[:2] == [OTHER, KEY]
    assert shown_keys(client, "sort=score_intruder&labelled=1&reverse=1") == [KEY, OTHER]
    assert shown_keys(client, "sort=label&labelled=1") == [KEY, OTHER]
    assert shown_keys(client, "sort=score_unknown") == all_keys
    page = client.get(RUN).text
    assert "0.75" in page
    assert "Plural nouns" in page


def test_the_page_of_a_component_shows_scores_with_intervals(client, stored: Interpretations):
    stored.add(some_entries())
    page = client.get(PAGE).text
    for shown in ("0.25", "0.10 to 0.50", "0.20", "and 1 failed", "of an earlier label", "reads"):
        assert shown in page
    assert client.get(f"{RUN}/export.html?key={KEY}").text.count("Plural nouns") == 1
    digests = [sha256_of_text(text) for text in ("Plural nouns", "another")]
    for value, digest in zip((0.625, 0.375), digests, strict=True):
        stored.add([Score(KEY, "detection", value, 0, 1, 0.5, 5, 0, "m", label_sha256=digest)])
    page = client.get(PAGE).text
    assert '<td class="num">0.62</td>' in page
    assert "of an earlier label" not in page


def test_components_side_by_side_show_what_each_means(client, stored: Interpretations):
    compared = f"/compare?run_a=hostile&a={KEY}&run_b=hostile&b={OTHER}"
    assert "no label" not in client.get(compared).text
    stored.add(some_entries())
    left, right = client.get(compared).text.split("<section>")[1:3]
    assert "Plural nouns" in left
    assert "0.10 to 0.50" in left
    assert "verbs" in right
    assert "syntax" in right
    assert "Plural nouns" not in right


def test_files_of_the_table_have_labels_and_scores(client, stored: Interpretations):
    address = f"{RUN}/table.parquet?labelled=1"
    before = pl.read_parquet(io.BytesIO(client.get(f"{RUN}/table.parquet").content))
    assert "label" not in before.columns
    stored.add(some_entries())
    frame = pl.read_parquet(io.BytesIO(client.get(address).content))
    rows = {row["component_key"]: row for row in frame.to_dicts()}
    assert rows.keys() == {KEY, OTHER}
    assert (rows[KEY]["label"], rows[OTHER]["tags"]) == ("Plural nouns", ["syntax"])
    assert rows[OTHER]["score_intruder"] == 0.75
    text = client.get(f"{RUN}/table.csv?key={OTHER}").text
    assert "verbs" in text
    assert "syntax" in text
    stored.add([Edit(OTHER, "label", "=1+1", "Ann"), Edit(OTHER, "note", "'plain'", "Ann")])
    (row,) = csv.DictReader(io.StringIO(client.get(f"{RUN}/table.csv?key={OTHER}").text))
    assert (row["label"], row["note"], row["component_key"]) == ("'=1+1", "'plain'", OTHER)


def test_a_list_is_downloaded_kept_and_opened(client, paths: HarvestLayout, stored):
    stored.add(some_entries())
    answer = client.get(f"{RUN}/list.json?labelled=1&sort=label&title=two")
    assert answer.json()["component_keys"] == [KEY, OTHER]
    fields = {"form_token": form_of(client)["form_token"], "title": "Two of <them>"}
    kept = client.post(f"{RUN}/lists?starred=1", data=fields, headers=OWN, follow_redirects=False)
    assert kept.headers["location"] == f"{RUN}?listed=two-of-them#table"
    assert shown_keys(client, "listed=two-of-them") == [OTHER]
    # The file of somebody else, put into the folder.
    (paths.interpretation_lists / "theirs.json").write_bytes(answer.content)
    assert set(shown_keys(client, "listed=theirs")) == {KEY, OTHER}
    page = client.get(RUN).text
    assert "Two of &lt;them&gt;" in page
    for name, content in (("broken", b"{"), ("other", b'{"title": 1}')):
        (paths.interpretation_lists / f"{name}.json").write_bytes(content)
        assert client.get(f"{RUN}?listed={name}").status_code == 404
        assert f"{name}.json is not a list" in client.get(RUN).text
    assert client.get(f"{RUN}?listed=..%2F..%2Fplan").status_code == 404


def test_two_people_keep_lists_of_one_title_at_once(
    paths: HarvestLayout, monkeypatch: pytest.MonkeyPatch
):
    lists_of = [ComponentList("Same title", "r", (key,)) for key in (KEY, OTHER)]
    kept = []

    def at_once(*args, **kwargs) -> None:
        """Just before the first list is written, the other one is."""
        monkeypatch.setattr(lists, "write_json", write_json)
        kept.append(lists.keep(paths, lists_of[1]))
        write_json(*args, **kwargs)

    monkeypatch.setattr(lists, "write_json", at_once)
    kept.append(lists.keep(paths, lists_of[0]))
    assert [lists.open_list(paths, name) for name in kept] == lists_of[::-1]


def test_the_table_does_not_list_the_folder_for_each_row(client, stored, monkeypatch):
    listed, files_in = [], entry_files.files_in

    def counting(folder):
        listed.append(folder)
        return files_in(folder)

    stored.add(some_entries())
    rows = len(shown_keys(client, ""))
    monkeypatch.setattr(entry_files, "files_in", counting)
    client.get(RUN)
    assert 0 < len(listed) <= 4 < rows


def test_a_file_that_cannot_be_read_is_named_on_the_page(client, paths: HarvestLayout, stored):
    stored.add(some_entries())
    (paths.interpretation_entries / "odd.txt").touch()
    assert "odd.txt" in client.get(RUN).text
    assert "odd.txt" in client.get(PAGE).text
