"""The pages as a client gets them: who may ask, what is escaped, what errors look like."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from harvest_assets.files.layout import HarvestLayout
from harvest_assets.viewer.app import make_app
from harvest_assets.viewer.library import Library
from harvest_assets_tests.viewer.hostile import KEY, RUN


class Elements(HTMLParser):
    """The tags and attributes of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.addresses: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.addresses += [value for name, value in attrs if name in ("href", "src", "action")]

    def handle_data(self, data):
        self.words += data


PAGES = [
    RUN,
    "/harvests",
    f"{RUN}?sort=reads&dead=1",
    f"{RUN}?min=%22%3E%3Cimg+src%3Dx%3E&max=%3Cscript%3E",
    f"{RUN}?q=%3Cscript%3E&token=%22%3E%3Cimg+src%3Dx%3E&layer=%27",
    f"{RUN}/component/{KEY}",
    f"{RUN}/component/{KEY}?examples=ci&shade=act&lines=full&reads_by=bottom&fires_by=pmi",
    f"{RUN}/component/{KEY}?examples=activation",
    f"{RUN}/component/{KEY}?examples=intervals&shade=act&page=2",
    f"{RUN}/component/{KEY}?examples=%3Cscript%3E&page=99999999999999",
    f"{RUN}/component/h.0.mlp.c_fc:0",
    f"/compare?run_a=hostile&a={KEY}&run_b=other&b={KEY}",
    f"/compare?run_a=hostile&a={KEY}&run_b=hostile&b=h.3.mlp.c_fc:2",
    f"/compare?run_a=hostile&a={KEY}&b=%3Cb%3E",
    "/compare",
    f"{RUN}/export.html?key={KEY}&key=h.3.mlp.c_fc:2",
    "/methods?run_a=hostile&run_b=other",
    "/methods?run_a=hostile&run_b=%3Cscript%3E&layer=%22%3E%3Cimg+src%3Dx%3E",
]


@pytest.mark.parametrize("address", PAGES)
def test_a_page_holds_nothing_that_tokens_brought(client, address: str):
    answer = client.get(address)
    assert answer.status_code == 200
    page = Elements(answer.text)
    ours = "html head meta title link script style body a header button main div dl dt dd span svg"
    ours += " text line rect h1 h2 h3 section table thead tbody tr th td small p ul ol li bdi i b"
    ours += " abbr form label input select option caption nav dialog article"
    ours += " details summary textarea circle"
    assert page.tags <= set(ours.split())
    assert not {name for name in page.attributes if name.startswith("on") or name == "style"}
    assert all(re.match(r"[/#?]", where) for where in page.addresses)
    for _, body in re.findall(r"<script([^>]*)>(.*?)</script>", answer.text, re.DOTALL):
        assert body == ""
    assert len(answer.text) < 500_000  # a token of 10,000 characters is cut


def test_headers_allow_nothing_foreign(client):
    for address in (RUN, "/static/viewer.js", "/nowhere", f"{RUN}/export.html?key={KEY}"):
        headers = client.get(address).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"host": "localhost:3100"}, True),
        ({"host": "[::1]:3100"}, True),
        ({"host": "evil.example:3100"}, False),
        ({"host": "127.0.0.1.evil.example"}, False),
        ({"host": ""}, False),
        ({"origin": "http://127.0.0.1:3100"}, True),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, True),
        (
            {
                "sec-fetch-site": "cross-site",
                "sec-fetch-mode": "navigate",
                "sec-fetch-dest": "iframe",
            },
            False,
        ),
    ],
)
def test_only_the_own_origin_is_answered(client, headers: dict[str, str], allowed: bool):
    assert (client.get(RUN, headers=headers).status_code == 200) == allowed


def test_only_get_and_head_are_allowed(client):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert client.request(method, RUN).status_code == 403


@pytest.mark.parametrize(
    ("address", "status", "named"),
    [
        ("/run/nothing", 404, "has not been harvested"),
        ("/run/..%2F..%2Fetc", 404, ""),
        (f"{RUN}/component/h.0:77777", 404, "no component"),
        ("/compare?run_a=nothing", 404, "nothing has not been harvested"),
        (f"{RUN}/table.csv?min=lots", 400, "write 0.01 or 1%"),
        (f"{RUN}/export.html", 400, "1 to 100"),
        ("/static/..%2fpages.py", 404, ""),
        ("/nowhere", 404, ""),
    ],
)
def test_an_error_is_a_page(client, address: str, status: int, named: str):
    answer = client.get(address)
    assert answer.status_code == status
    assert named in answer.text


def test_an_address_with_a_key_leads_to_its_component(client):
    answer = client.get(RUN, params={"q": KEY}, follow_redirects=False)
    assert answer.headers["location"] == f"{RUN}/component/{KEY}"


def test_a_comparison_says_what_it_lacks(client):
    assert "Missing" not in client.get("/compare").text
    assert "Missing: a component (a)." in client.get("/compare?run_a=hostile&a=").text
    assert "its harvest (run_a)" in client.get(f"/compare?run_a=&a={KEY}").text


@pytest.mark.parametrize("field", ["min", "max"])
def test_a_filter_that_cannot_be_read_keeps_the_page(client, field: str):
    answer = client.get(RUN, params={field: "lots<b>", "q": "h.1", "sort": "density"})
    assert answer.status_code == 200
    same = client.get(RUN, params={"q": "h.1", "sort": "density"}).text
    rows = re.findall(r'name="key" value="([^"]+)"', answer.text)
    assert rows == re.findall(r'name="key" value="([^"]+)"', same)
    assert "write 0.01 or 1%" in answer.text
    assert 'value="lots&lt;b&gt;"' in answer.text  # what was typed can be corrected
    assert "write 0.01 or 1%" not in same


def test_no_harvest_is_a_page_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path))
    client = TestClient(make_app(Library(), None), base_url="http://127.0.0.1:3100")
    assert "no harvests" in client.get("/").text


def test_a_run_with_a_name_that_no_header_takes(paths: HarvestLayout, tmp_path, monkeypatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path))
    shutil.copytree(paths.root, HarvestLayout.of('é"; x=1').root)
    client = TestClient(make_app(Library(), 'é"; x=1'), base_url="http://localhost")
    assert client.get("/").status_code == 200
    answer = client.get("/run/é%22%3B x=1/table.csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="____x_1.csv"'
