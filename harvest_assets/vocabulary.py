"""Token ids as texts that a page can show: blank, broken and hostile ones too."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.outside import read_bytes

_MOST_BYTES = 256 << 20  # of a `tokenizer.json`
# Longer texts are cut where they are shown.
_MOST_CHARACTERS = 60
_SIGNS = {"\n": "⏎", "\r": "␍", "\t": "⇥"}
# Control, format, surrogate, private, unassigned: what a browser would not show or would act on.
_UNSHOWN = ("Cc", "Cf", "Cs", "Co", "Cn")
_JOINERS = "\u200d"  # zero-width joiner, of which emoji are made


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a token: `text`, `space`, or a `sign` that stands for what cannot be seen."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A token as it is shown.

    Args:
        token_id: its id; -1 outside the sequence.
        pieces: what it looks like.
        special: is it one of the tokenizer's special tokens, or none that it knows?
        breaks: does a line end in it?
    """

    token_id: int
    pieces: tuple[Piece, ...]
    special: bool
    breaks: bool

    @property
    def text(self) -> str:
        """As plain text, with signs."""
        return "".join(piece.text for piece in self.pieces)


class Vocabulary:
    """The texts of a tokenizer's tokens.

    Args:
        tokenizer: a `tokenizers.Tokenizer` or a tokenizer of `transformers`.
        size: ids below it can be looked up, as readers of the lists do.
        special: ids of special tokens.
    """

    def __init__(self, tokenizer: Any, size: int, special: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._shown: dict[int, ShownToken] = {}
        self.size = size

    @classmethod
    def open(cls, name: str) -> Vocabulary:
        """The vocabulary of the tokenizer with this hub name or local path.

        Raises:
            HarvestError: there is none.
        """
        file = _tokenizer_file(name)
        if file is not None:
            fast = _fast(name, file)
            added = fast.get_added_tokens_decoder()
            special = frozenset(i for i, token in added.items() if token.special)
            return cls(fast, fast.get_vocab_size(with_added_tokens=True), special)
        from harvest_assets.decomposition.tokenization import load_tokenizer

        slow = load_tokenizer(name)
        return cls(slow, len(slow), frozenset(slow.all_special_ids))

    def text(self, token_id: int) -> str | None:
        """What the tokenizer makes of one id; None if it does not know it."""
        if not 0 <= token_id < self.size:
            return None
        return str(self._tokenizer.decode([token_id], skip_special_tokens=False))

    def shown(self, token_id: int) -> ShownToken:
        """A token as it is shown."""
        if token_id not in self._shown:
            self._shown[token_id] = self._make(token_id)
        return self._shown[token_id]

    def ids_with(self, text: str) -> list[int]:
        """The tokens whose text contains another, in any case; in double quotes: equals it."""
        quoted = len(text) > 1 and text[0] == text[-1] == '"'
        if quoted:
            return [i for i, known in enumerate(self._texts) if known == text[1:-1]]
        wanted = text.casefold()
        return [i for i, known in enumerate(self._folded) if wanted in known]

    @cached_property
    def _texts(self) -> list[str]:
        return [self.text(i) or "" for i in range(self.size)]

    @cached_property
    def _folded(self) -> list[str]:
        return [text.casefold() for text in self._texts]

    def _make(self, token_id: int) -> ShownToken:
        if token_id < 0:
            return ShownToken(token_id, (), special=False, breaks=False)
        text = self.text(token_id)
        if not text:
            sign = f"#{token_id}" if text is None else "∅"
            return ShownToken(token_id, (Piece("sign", sign),), special=True, breaks=False)
        pieces = tuple(pieces_of(text))
        return ShownToken(token_id, pieces, token_id in self._special, "\n" in text)


def pieces_of(text: str) -> list[Piece]:
    """Cut a text into what can be seen, blanks, and signs for the rest."""
    cut = text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS]
    pieces: list[Piece] = []
    for character in cut:
        kind, shown = _look(character)
        if pieces and kind == "text" == pieces[-1].kind:
            pieces[-1] = Piece(kind, pieces[-1].text + shown)
        else:
            pieces.append(Piece(kind, shown))
    if cut != text:
        pieces.append(Piece("sign", f"…{len(text):,} characters"))
    return pieces


def _look(character: str) -> tuple[str, str]:
    if character == " ":
        return "space", " "
    if character in _SIGNS:
        return "sign", _SIGNS[character]
    blank = character.isspace() or unicodedata.category(character) in _UNSHOWN
    if blank and character not in _JOINERS:
        return "sign", f"U+{ord(character):04X}"
    return "text", character


def _fast(name: str, file: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_buffer(read_bytes(file, _MOST_BYTES))
    except Exception as error:  # the library raises nothing more special
        msg = f"The tokenizer {name!r} cannot be loaded: {reason_of(error)}."
        raise HarvestError(msg) from error


def _tokenizer_file(name: str) -> Path | None:
    """The `tokenizer.json` on this machine, which opens at once; None where there is none."""
    local = Path(name) / "tokenizer.json"
    try:
        if local.is_file():
            return local
        if Path(name).exists() or name.count("/") > 1:
            return None
    except OSError as error:
        msg = f"The tokenizer {name[:200]!r} cannot be loaded: {error.strerror}."
        raise HarvestError(msg) from error
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "tokenizer.json")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
