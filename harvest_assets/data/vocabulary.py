"""Token ids as texts that a page can show: blank, broken and hostile ones too."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from harvest_assets.data.token_texts import TokenTexts, escaped, escaped_byte, id_limit, joined
from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.untrusted import read_bytes

_MAX_BYTES = 256 << 20  # of a `tokenizer.json`
# Longer texts are cut where they are shown.
_MAX_CHARACTERS = 60
_SIGNS = {"\n": "⏎", "\r": "␍", "\t": "⇥"}
# Control, format, surrogate, private, unassigned: what a browser would not show or would act on.
_UNSHOWN = ("Cc", "Cf", "Cs", "Co", "Cn")
_JOINERS = "\u200d"  # zero-width joiner, of which emoji are made


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a token: `text`, `space`, or a `sign` in place of what cannot be seen."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A token as it is shown.

    Args:
        token_id: its id; -1 outside the sequence.
        pieces: as it is shown.
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
    """The texts of a tokenizer's tokens, one for each id.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, a tokenizer of `transformers`, or anything that has
            `decode` and `vocab_size`.
        special: ids of special tokens.
    """

    def __init__(self, tokenizer: Any, special: frozenset[int] = frozenset()) -> None:
        self._tokenizer = tokenizer
        self._texts = TokenTexts(tokenizer)
        self._special = special
        self._shown: dict[int, ShownToken] = {}

    @classmethod
    def open(cls, name: str, *, download: bool = True) -> Vocabulary:
        """The vocabulary of the tokenizer with this hub name or local path.

        Args:
            name: of the tokenizer.
            download: whether to ask the hub for one that is not on this machine.

        Raises:
            HarvestError: there is none.
        """
        file = tokenizer_file(name)
        if file is None:
            from harvest_assets.data.tokenization import load_tokenizer

            loaded = load_tokenizer(name, download=download)
            # Loading may have downloaded it. The same file gives the same vocabulary everywhere.
            file = tokenizer_file(name)
            if file is None:
                return cls(loaded, frozenset(loaded.all_special_ids))
        fast = _fast(name, file)
        added = fast.get_added_tokens_decoder()
        return cls(fast, frozenset(i for i, token in added.items() if token.special))

    @classmethod
    def of(cls, tokenizer: Any) -> Vocabulary:
        """The vocabulary of a tokenizer that is loaded, or a vocabulary itself."""
        return tokenizer if isinstance(tokenizer, cls) else _vocabulary_of(tokenizer)

    @classmethod
    def unknown(cls) -> Vocabulary:
        """A vocabulary that shows every token as its id, where there is no tokenizer."""
        return cls(_NoTokenizer())

    @cached_property
    def size(self) -> int:
        """The highest id plus one, added tokens included."""
        return id_limit(self._tokenizer, with_added=True)

    @cached_property
    def vocab_size(self) -> int:
        """The highest id plus one without added tokens: PMI lists name only ids below it."""
        return id_limit(self._tokenizer, with_added=False)

    @property
    def sha256(self) -> str:
        """Digest of what decides the texts: all tokens with their ids, and how they are decoded."""
        return self._texts.sha256

    def text(self, token_id: int) -> str:
        r"""The text of one id, `#id` if the tokenizer does not know it, empty for -1.

        Bytes of a character that other tokens complete are escaped: `\xe2\x80`.
        """
        return escaped(self._kept(token_id))

    def utf8(self, token_id: int) -> bytes:
        """What an id adds to a text in UTF-8, which may be a part of a character."""
        return self._kept(token_id).encode("utf-8", "surrogateescape")

    def context(self, token_ids: Sequence[int], firing_index: int) -> list[str]:
        """The texts of adjacent tokens, one a token, which joined give the decoded text.

        A character that is made up of several tokens is the text of one of them, of the firing one
        if that is among them; the others have what is left of theirs, which may be nothing.
        """
        return [escaped(text) for text in self._joined(token_ids, firing_index)]

    def shown(self, token_id: int) -> ShownToken:
        """A token as it is shown."""
        if token_id not in self._shown:
            self._shown[token_id] = self._make(token_id)
        return self._shown[token_id]

    def shown_context(self, token_ids: Sequence[int], firing_index: int) -> list[ShownToken]:
        """Adjacent tokens as they are shown, with the texts of `context`."""
        shown = [self.shown(i) for i in token_ids]
        for place, text in enumerate(self._joined(token_ids, firing_index)):
            if text != self._kept(token_ids[place]):
                shown[place] = dataclasses.replace(shown[place], pieces=tuple(pieces_of(text)))
        return shown

    def ids_with(self, text: str) -> list[int]:
        """The tokens whose text contains another, in any case; in double quotes: equals it."""
        quoted = len(text) > 1 and text[0] == text[-1] == '"'
        if quoted:
            return [i for i, known in self._texts.all.items() if escaped(known) == text[1:-1]]
        wanted = text.casefold()
        return [i for i, known in self._folded.items() if wanted in known]

    @cached_property
    def _folded(self) -> dict[int, str]:
        return {i: escaped(known).casefold() for i, known in self._texts.all.items()}

    def _kept(self, token_id: int) -> str:
        """The text of an id with its lone bytes as they are joined."""
        if token_id in self._texts.spellings:
            return self._texts[token_id]
        return "" if token_id < 0 else f"#{token_id}"

    def _joined(self, token_ids: Sequence[int], firing_index: int) -> list[str]:
        return joined([self._kept(i) for i in token_ids], firing_index)

    def _make(self, token_id: int) -> ShownToken:
        if token_id < 0:
            return ShownToken(token_id, (), special=False, breaks=False)
        text = self._kept(token_id)
        if not text or token_id not in self._texts.spellings:
            return ShownToken(token_id, (Piece("sign", text or "∅"),), special=True, breaks=False)
        pieces = tuple(pieces_of(text))
        return ShownToken(token_id, pieces, token_id in self._special, "\n" in text)


class _NoTokenizer:
    vocab_size = 1 << 62  # no id is left out

    def get_vocab(self) -> dict[str, int]:
        return {}

    def decode(self, _ids: list[int]) -> str:
        return ""


@lru_cache(maxsize=8)
def _vocabulary_of(tokenizer: Any) -> Vocabulary:
    return Vocabulary(tokenizer, frozenset(getattr(tokenizer, "all_special_ids", ())))


def pieces_of(text: str) -> list[Piece]:
    """Cut a text into what can be seen, blanks, and signs for the rest."""
    cut = text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS]
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
    if "\udc80" <= character <= "\udcff":
        return "sign", escaped_byte(character)
    blank = character.isspace() or unicodedata.category(character) in _UNSHOWN
    if blank and character not in _JOINERS:
        return "sign", f"U+{ord(character):04X}"
    return "text", character


def _fast(name: str, file: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_buffer(read_bytes(file, _MAX_BYTES))
    except Exception as error:  # the library raises nothing more special
        raise HarvestError(
            f"The tokenizer {name!r} cannot be loaded: {reason_of(error)}."
        ) from error


def tokenizer_file(name: str) -> Path | None:
    """The `tokenizer.json` on this machine, which opens at once; None if there is none."""
    local = Path(name) / "tokenizer.json"
    try:
        if local.is_file():
            return local
        if Path(name).exists():
            return None
    except OSError as error:
        raise HarvestError(
            f"The tokenizer {name[:200]!r} cannot be loaded: {error.strerror}."
        ) from error
    return cached_tokenizer_file(name)


def cached_tokenizer_file(name: str) -> Path | None:
    """The `tokenizer.json` of a hub name in the hub's cache; None if it is not there."""
    if name.count("/") > 1:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "tokenizer.json")
    except (HFValidationError, OSError, ValueError):
        return None
    return Path(found) if isinstance(found, str) else None
