"""Where the header's fields lead."""

from __future__ import annotations

import json

import pytest

RUN = "/run/hostile"
KEY = "h.0.mlp.c_fc:1"


@pytest.fixture
def goes(client):
    """The address that a request is redirected to."""

    def ask(address: str, came_from: str = "", **params: str) -> str:
        headers = {"referer": came_from}
        answer = client.get(address, params=params, headers=headers, follow_redirects=False)
        assert answer.is_redirect, answer.text
        return answer.headers["location"]

    return ask


def test_a_text_leads_to_what_it_names(goes, client):
    assert goes(f"{RUN}/jump", q=KEY) == f"{RUN}/component/{KEY}"
    assert goes(f"{RUN}/jump", q="h0mlp:1") == f"{RUN}/component/{KEY}"
    assert goes(f"{RUN}/jump", q="h.1") == f"{RUN}?q=h.1#table"
    assert goes(f"{RUN}/jump", q='"the"') == f"{RUN}?token=%22the%22#table"
    assert goes(f"{RUN}/jump", q=" ") == RUN
    assert goes(f"{RUN}/jump", q="<no such>&a=") == f"{RUN}/contexts?q=%3Cno+such%3E%26a%3D"
    dead = goes(f"{RUN}/jump", q="h0mlp:0")  # never fired, but it is the one that was named
    assert dead == f"{RUN}/component/h.0.mlp.c_fc:0"
    for address in (RUN, f"{RUN}/component/{KEY}"):
        assert f'action="{RUN}/jump"' in client.get(address).text


def test_a_random_component_fired_and_is_of_the_table(goes, paths, client):
    with paths.summary.open() as file:
        fired = set(json.load(file))
    found = {goes(f"{RUN}/random") for _ in range(30)}
    assert len(found) > 5
    assert {address.removeprefix(f"{RUN}/component/") for address in found} <= fired
    address = goes(f"{RUN}/random", layer="h.2.mlp.c_fc", sort="density")
    assert address.startswith(f"{RUN}/component/h.2.mlp.c_fc:")
    assert address.endswith("?layer=h.2.mlp.c_fc&sort=density")
    assert client.get(f"{RUN}/random?q=nothing").status_code == 404


def test_another_run_keeps_the_page(goes, client):
    other = "/run/other"
    host = "http://127.0.0.1:3100"
    component = f"{host}{RUN}/component/{KEY}?shade=act"
    for came_from, wanted in (
        (component, f"{other}/component/{KEY}?shade=act"),
        (f"{host}{RUN}/component/h.9:999", other),
        (f"{host}{RUN}/contexts?q=a%26b", f"{other}/contexts?q=a%26b"),
        (f"{host}{RUN}?sort=density", other),
        (f"{host}/harvests", other),
        ("http://[", other),
        ("https://evil.example//run//evil.example/x", f"{other}/evil.example/x"),
        ("", other),
    ):
        assert goes("/switch", came_from, run="other") == wanted
    assert client.get("/switch?run=nothing").status_code == 404
    page = client.get(RUN).text
    assert "<option selected>hostile</option><option>other</option>" in page
