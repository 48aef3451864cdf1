"""Whatever bytes a reader is given, it reads them or reports in one sentence that it cannot.

The same readers as the fuzzer's, for a few hundred inputs each: arbitrary bytes, good files with
pieces changed, and JSON and YAML of arbitrary values in place of the right ones.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harvest_assets_tests.hostile.readers import READERS
from harvest_assets_tests.hostile.readers.reader import Reader, scratch_folder

# Of each kind; the fuzzer tries more.
SLOW = dict.fromkeys(("address", "state-tensors", "map", "entries", "label-tables"), 40)
SLOW |= dict.fromkeys(("asking-address", "contexts", "harvest-db"), 10)
SLOW |= dict.fromkeys(("newer-config", "dictionaries", "dictionary", "other-records"), 60)
SLOW |= dict.fromkeys(("firings", "pairs", "list", "label-import"), 60)
SLOW |= dict.fromkeys(("model-answer", "answers", "live-reply"), 60)
EXAMPLES = 250

_PIECES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [b"-1", b"1e999", b"9" * 30, b"[[[[", b"null", b"true", b'"x"', b"\0", b"\xff"]
    ),
)
_EDITS = st.lists(st.tuples(st.integers(0), st.integers(0, 12), _PIECES), min_size=1, max_size=4)
_NUMBERS = st.one_of(st.integers(-(10**25), 10**25), st.floats(), st.booleans())
_VALUES = st.recursive(
    st.one_of(st.none(), _NUMBERS, st.text(max_size=20)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module", params=READERS)
def reader(request: pytest.FixtureRequest) -> Iterator[Reader]:
    patch = pytest.MonkeyPatch()
    patch.setenv("SPD_OUT_DIR", "")  # readers set their own
    folder = scratch_folder()
    yield READERS[request.param](folder)
    shutil.rmtree(folder)
    patch.undo()


@pytest.fixture(scope="module")
def good(reader: Reader) -> list[bytes]:
    return reader.seeds()


def _edited(content: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    changed = bytearray(content)
    for where, length, piece in edits:
        place = where % (len(changed) + 1)
        changed[place : place + length] = piece
    return bytes(changed)


def _replaced(content: bytes, where: int, value: object) -> bytes:
    """A JSON file with one of its values replaced, at any depth."""
    try:
        root = json.loads(content)
    except ValueError:
        return json.dumps(value).encode()
    places: list[tuple[dict | list, object]] = []
    left = [root]
    while left:
        item = left.pop()
        pairs = item.items() if isinstance(item, dict) else enumerate(item)
        for key, below in pairs:
            places.append((item, key))
            if isinstance(below, dict | list):
                left.append(below)
    if not places:
        return json.dumps(value).encode()
    parent, key = places[where % len(places)]
    parent[key] = value
    return json.dumps(root).encode()


def test_good_files_are_taken(reader: Reader, good: list[bytes]):
    taken = [reader(content) for content in good]
    assert any(taken)


def test_anything_else_is_taken_or_refused(reader: Reader, good: list[bytes], request):
    name = request.node.callspec.params["reader"]
    known = st.sampled_from(good)
    inputs = st.one_of(
        st.binary(max_size=200),
        st.builds(_edited, known, _EDITS),
        st.builds(_replaced, known, st.integers(0), _VALUES),
        st.builds(
            lambda content, keep: content[: keep % (len(content) + 1)], known, st.integers(0)
        ),
    )

    @settings(
        max_examples=SLOW.get(name, EXAMPLES),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def read(content: bytes) -> None:
        assert reader(content) in (True, False)

    read()


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.rehearsal)])
@pytest.mark.timeout(240)
def test_no_byte_of_a_footer_ends_the_process(step: int):
    """In a process of its own: the library behind the tables ends it for some damages."""
    code = f"""
import shutil
from harvest_assets_tests.hostile.readers import READERS
from harvest_assets_tests.hostile.readers.reader import scratch_folder
for name in ("index", "highest"):
    print(name, flush=True)
    folder = scratch_folder()
    try:
        reader = READERS[name](folder)
        good = reader.seeds()[0]
        length = int.from_bytes(good[-8:-4], "little")
        for place in range(len(good) - 8 - length, len(good) - 8, {step}):
            reader(good[:place] + bytes([good[place] ^ 2]) + good[place + 1 :])
    finally:
        shutil.rmtree(folder)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr[-2000:])
