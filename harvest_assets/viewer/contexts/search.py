"""Searches the index of kept contexts: where a text occurs, and which components fire there."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from harvest_assets.errors import HarvestError
from harvest_assets.files.untrusted import read_json
from harvest_assets.viewer.contexts.texts import SEPARATOR, folded
from harvest_assets.viewer.derived import damage_reported, read_array

if TYPE_CHECKING:
    from harvest_assets.data.vocabulary import ShownToken
    from harvest_assets.viewer.harvest import Harvest

MAX_HITS = 1000
MAX_QUERY = 1000  # characters
HITS_PER_PAGE = 20
_LEFT, _RIGHT = 14, 18  # tokens shown around a hit
_MAX_SHOWN_HIT = 60  # tokens of a hit
_MAX_COMPONENTS = 12  # of a hit
_MAX_OFTEN = 20
_MAX_SHOWN_BYTES = 1 << 22  # of a hit with what is around it
# Of the files in the folder, as `build` writes them: the kinds of their numbers, and dimensions.
_ARRAYS = {
    "tokens": ("i", 1),
    "starts": ("iu", 1),
    "fragments": ("i", 2),
    "firing_place": ("i", 1),
    "firing_component": ("i", 1),
    "firing_ci": ("f", 1),
}


class InvalidSearchError(HarvestError):
    """A text that cannot be searched for."""


@dataclass(frozen=True)
class FiringThere:
    """A component that fires in a hit.

    Args:
        key: of the component.
        ci: its highest causal importance at a token of the hit.
    """

    key: str
    ci: float


@dataclass(frozen=True)
class Hit:
    """A place where the text occurs, once however many components kept it.

    Args:
        row, position: of the first token of the hit; None where not recorded.
        left, tokens, right: tokens before, of and after the hit.
        texts: the same as texts; bytes that form no character are escaped.
        components: the first of those that are known to fire in it, highest first.
        n_components: how many there are.
    """

    row: int | None
    position: int | None
    left: list[ShownToken]
    tokens: list[ShownToken]
    right: list[ShownToken]
    texts: tuple[str, str, str]
    components: list[FiringThere]
    n_components: int


@dataclass(frozen=True)
class Often:
    """A component that fires in many of the hits.

    Args:
        key: of the component.
        hits: in how many.
        ci: the mean of its highest causal importance in these.
    """

    key: str
    hits: int
    ci: float


@dataclass(frozen=True)
class Found:
    """What a search found.

    Args:
        n: hits, at most `MAX_HITS`.
        more: whether there are more, which were not counted.
        hits: those of the page, by row and position.
        often: components that fire in the most hits.
    """

    n: int
    more: bool
    hits: list[Hit]
    often: list[Often]


@dataclass(frozen=True)
class ContextIndex:
    """The index in a folder, memory-mapped; N places, F fragments, P firings.

    Args:
        folder: of the files.
        tokens: int32 [N].
        starts: [N + 1], where the text of each token begins.
        fragments: int64 [3, F], first place, row and position of each; row is -1 if unknown.
        firing_place: int64 [P], rising.
        firing_component: int32 [P].
        firing_ci: float32 [P].
        text: of all tokens.
        folded: the same in lower case.
        per_list: windows of each list of a component at most.
        n_windows: windows that were read.
    """

    folder: Path
    tokens: NDArray[np.int32]
    starts: NDArray[np.int64]
    fragments: NDArray[np.int64]
    firing_place: NDArray[np.int64]
    firing_component: NDArray[np.int32]
    firing_ci: NDArray[np.float32]
    text: mmap.mmap
    folded: mmap.mmap
    per_list: int
    n_windows: int

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The index that `build` wrote.

        Raises:
            DamagedFolderError: it is damaged.
        """
        with damage_reported(folder):
            arrays: dict[str, Any] = {
                name: read_array(folder / f"{name}.npy", *kind) for name, kind in _ARRAYS.items()
            }
            about = read_json(folder / "about.json")
            text, lower = (_mapped(folder / f"{name}.bin") for name in ("text", "folded"))
            _check_lengths(arrays, {len(text), len(lower)})
            k, n = int(about["per_list"]), int(about["windows"])
            return cls(folder, **arrays, text=text, folded=lower, per_list=k, n_windows=n)

    def search(self, harvest: Harvest, query: str, *, case: bool, page: int = 1) -> Found:
        """The places where a text occurs.

        Args:
            harvest: that the index is of.
            query: the text, across tokens; in double quotes: one whole token.
            case: whether upper and lower case differ, except in double quotes, where they do.
            page: from 1, of `HITS_PER_PAGE` hits.

        Raises:
            InvalidSearchError: the text is too long.
            DamagedFolderError: the index is damaged.
        """
        if len(query) > MAX_QUERY:
            raise InvalidSearchError(
                f"The text has {len(query):,} characters; search for at most {MAX_QUERY:,}."
            )
        with damage_reported(self.folder):
            return self._search(harvest, query, case=case, page=page)

    def _search(self, harvest: Harvest, query: str, *, case: bool, page: int) -> Found:
        if len(query) > 1 and query[0] == query[-1] == '"':
            ids = np.array(harvest.vocabulary.ids_with(query), dtype=np.int64)
            first = np.flatnonzero(np.isin(self.tokens, ids))[: MAX_HITS + 1]
            last = first
        else:
            first, last = self._occurrences(query.encode("utf-8", "replace"), case=case)
        more, first, last = len(first) > MAX_HITS, first[:MAX_HITS], last[:MAX_HITS]
        begin = (page - 1) * HITS_PER_PAGE
        hits = zip(first.tolist(), last.tolist(), strict=True)
        shown = [self._hit(harvest, *hit) for hit in list(hits)[begin : begin + HITS_PER_PAGE]]
        return Found(len(first), more, shown, self._often(harvest, first, last))

    def _occurrences(
        self, query: bytes, *, case: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and last token of each occurrence; occurrences differ in their first token."""
        text, wanted = (self.text, query) if case else (self.folded, folded(query))
        found: list[tuple[int, int]] = []
        at = text.find(wanted) if wanted and SEPARATOR not in wanted else -1
        while at >= 0 and len(found) <= MAX_HITS:
            # Of another type, all of `starts` would be converted.
            ends = np.array((at, at + len(wanted) - 1), dtype=self.starts.dtype)
            first, last = (np.searchsorted(self.starts, ends, "right") - 1).tolist()
            found.append((first, last))
            # The next in another token: several in one are one hit.
            at = text.find(wanted, max(at + len(wanted), int(self.starts[first + 1])))
        first, last = np.array(found, dtype=np.int64).reshape(-1, 2).T
        return first, last

    def _hit(self, harvest: Harvest, first: int, last: int) -> Hit:
        begins, rows, positions = self.fragments
        fragment = int(np.searchsorted(begins, first, "right")) - 1
        low = int(begins[fragment])
        high = int(begins[fragment + 1]) if fragment + 1 < len(begins) else len(self.tokens)
        if fragment < 0 or not 0 <= low <= first <= last < high <= len(self.tokens):
            raise ValueError("a fragment is not where it should be")
        last = min(last, first + _MAX_SHOWN_HIT)
        left, right = max(low, first - _LEFT), min(high, last + 1 + _RIGHT)
        ends = self.starts[left : right + 1].astype(np.int64)
        if (np.diff(ends) < 0).any() or ends[-1] - ends[0] > _MAX_SHOWN_BYTES:
            raise ValueError("a text does not end after it begins, or is too long")
        tokens = harvest.vocabulary.shown_context(self.tokens[left:right].tolist(), first - left)
        components, ci = self._firing(harvest, first, last)
        keys = harvest.frame["component_key"]
        row = int(rows[fragment])
        return Hit(
            row=row if row >= 0 else None,
            position=int(positions[fragment]) + first - low if row >= 0 else None,
            left=tokens[: first - left],
            tokens=tokens[first - left : last + 1 - left],
            right=tokens[last + 1 - left :],
            texts=(
                self._text(left, first),
                self._text(first, last + 1),
                self._text(last + 1, right),
            ),
            components=[
                FiringThere(keys[int(c)], float(value))
                for c, value in zip(components[:_MAX_COMPONENTS], ci, strict=False)
            ],
            n_components=len(components),
        )

    def _text(self, first: int, stop: int) -> str:
        part = self.text[int(self.starts[first]) : int(self.starts[stop])]
        return part.removesuffix(SEPARATOR).decode("utf-8", "backslashreplace")

    def _firing(
        self, harvest: Harvest, first: int, last: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The components that fire between two places, each once, the highest first."""
        start, stop = np.searchsorted(self.firing_place, (first, last + 1))
        component, ci = self.firing_component[start:stop], self.firing_ci[start:stop]
        n = len(harvest.frame)
        known = len(ci) <= n * (last + 1 - first) and np.isfinite(ci).all()
        if not known or ((component < 0) | (component >= n)).any():
            raise ValueError("a firing is not one of a component")
        order = np.lexsort((component, -ci))
        _, one = np.unique(component[order], return_index=True)
        chosen = order[np.sort(one)]
        return component[chosen], ci[chosen]

    def _often(
        self, harvest: Harvest, first: NDArray[np.int64], last: NDArray[np.int64]
    ) -> list[Often]:
        firing = [
            self._firing(harvest, *hit) for hit in zip(first.tolist(), last.tolist(), strict=True)
        ]
        if not firing:
            return []
        component, ci = (np.concatenate(column) for column in zip(*firing, strict=True))
        n = np.bincount(component)
        total = np.bincount(component, weights=ci)
        keys = harvest.frame["component_key"]
        best = np.lexsort((np.arange(len(n)), -total, -n))[:_MAX_OFTEN]
        return [Often(keys[int(c)], int(n[c]), float(total[c] / n[c])) for c in best if n[c]]


def _check_lengths(arrays: dict[str, NDArray[Any]], n_bytes: set[int]) -> None:
    """Check that the arrays belong together; what is in them is checked where it is used."""
    n, starts = len(arrays["tokens"]), arrays["starts"]
    if len(starts) != n + 1 or n_bytes != {int(starts[-1])}:
        raise ValueError("texts and tokens differ in length")
    if len(arrays["fragments"]) != 3:  # noqa: PLR2004 - first place, row, position
        raise ValueError("its fragments are others")
    if len({len(arrays[name]) for name in arrays if name.startswith("firing_")}) != 1:
        raise ValueError("its firings differ in number")


def _mapped(path: Path) -> mmap.mmap:
    if not path.is_file():
        raise ValueError(f"{path.name} is missing")
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
