r"""One text for each token id, whatever surrounds it.

A decoder may write a token differently at the start of a text and inside one: SentencePiece
decoders drop the first space, WordPiece puts a space before each word. So each id is decoded
between two copies of an ordinary word:

1. The anchor `a` is the first ordinary token whose text is letters only.
2. The text of an id is decode([a, id, a]) without decode([a]) at its start and without what the
   second `a` adds at its end.
3. A token that is only part of a character has no text of its own. Its bytes are kept as lone
   surrogates (PEP 383), which `joined` turns into the character and `escaped` into `\xe2`.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate, islice
from typing import Any

_MAX_ANCHOR_SEARCH = 20_000  # ids
_MAX_ANCHOR_LENGTH = 20
_DIGEST_SAMPLE = 1000
_REPLACEMENT = "\ufffd"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_KEPT_BYTE = re.compile("[\udc80-\udcff]")


class TokenTexts:
    """The texts of a tokenizer's ids, decoded on demand.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, a tokenizer of `transformers`, or anything that has
            `decode` and `vocab_size`.
    """

    def __init__(self, tokenizer: Any) -> None:
        # Without what `transformers` does to a decoded text, such as removing blanks.
        self._tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
        self._decode = _decoder_of(self._tokenizer)
        self._added = _added_ids(self._tokenizer)
        self._texts: dict[int, str] = {}

    @cached_property
    def spellings(self) -> dict[int, str]:
        """Every id that the tokenizer knows, in rising order, with the token's own spelling."""
        return dict(sorted(_spellings_of(self._tokenizer).items()))

    @cached_property
    def sha256(self) -> str:
        """Digest of all tokens with their ids, and of how a sample of them is decoded."""
        ids = list(self.spellings)
        tokens = "".join(f"{i}\0{token}\0" for i, token in self.spellings.items())
        sample = self._decode(ids[:: max(1, len(ids) // _DIGEST_SAMPLE)])
        content = (tokens + sample).encode("utf-8", "surrogatepass")
        return hashlib.sha256(content).hexdigest()

    def __getitem__(self, token_id: int) -> str:
        """The text of an id that the tokenizer knows; bytes without text are lone surrogates."""
        if token_id not in self._texts:
            text = self._between_anchors(token_id)
            if text == "" or _REPLACEMENT in text:
                part = self._bytes_of(token_id, text)
                text = text if part is None else part.decode("utf-8", "surrogateescape")
            elif not text.isascii():
                text = text.encode("utf-8", "backslashreplace").decode()
            self._texts[token_id] = text
        return self._texts[token_id]

    def _between_anchors(self, token_id: int) -> str:
        if self._anchor is not None:
            anchor, before, after = self._anchor
            whole = self._decode([anchor, token_id, anchor])
            length = len(whole) - len(before) - len(after)
            if length >= 0 and whole.startswith(before) and whole.endswith(after):
                return whole[len(before) : len(before) + length]
            whole = self._decode([anchor, token_id])
            if whole.startswith(before):
                return whole[len(before) :]
        return self._decode([token_id])

    @cached_property
    def _anchor(self) -> tuple[int, str, str] | None:
        """Id of the anchor, its text at the start of a text, and what it adds at the end of one."""
        best, rank = None, 0
        for token_id, spelling in islice(self.spellings.items(), _MAX_ANCHOR_SEARCH):
            if token_id in self._added:
                continue
            text = self._decode([token_id])
            # A spelling that ends otherwise marks the end of a word, or is that of a byte.
            if _anchor_rank(text) <= rank or not spelling.endswith(text):
                continue
            twice = self._decode([token_id, token_id])
            if twice.startswith(text):
                best, rank = (token_id, text, twice[len(text) :]), _anchor_rank(text)
            if rank == _BEST_RANK:
                break
        return best

    def _bytes_of(self, token_id: int, text: str) -> bytes | None:
        """The bytes of a token that is not text by itself; None where they are not known."""
        spelling = self.spellings[token_id]
        if token_id in self._added:
            return spelling.encode("utf-8", "replace") if text else None
        if byte := _BYTE_TOKEN.fullmatch(spelling):
            return bytes.fromhex(byte[1])
        if not text:  # a tokenizer of bytes that leaves out what is no character
            return spelling.encode("latin-1") if "\x80" <= spelling <= "\xff" else None
        if not all(character in _BYTE_OF for character in spelling):
            return None
        part = bytes(_BYTE_OF[character] for character in spelling)
        return part if part.decode("utf-8", "replace") == text else None


def id_limit(tokenizer: Any, *, with_added: bool) -> int:
    """The highest id of a tokenizer plus one; more than its number of tokens where ids have gaps.

    Args:
        tokenizer: as of `TokenTexts`.
        with_added: count the tokens that were added to the vocabulary it was trained with.
    """
    tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(tokenizer, "id_to_token"):
        ids = tokenizer.get_vocab(with_added_tokens=with_added).values()
        return max(ids, default=-1) + 1
    left_out = frozenset() if with_added else _added_ids(tokenizer)
    ids = (i for i in _spellings_of(tokenizer) if i not in left_out)
    return max(int(tokenizer.vocab_size), max(ids, default=-1) + 1)


def joined(texts: Sequence[str], carrier: int) -> list[str]:
    """The texts of adjacent tokens, with characters that several of them make up put together.

    Args:
        texts: as of `TokenTexts`.
        carrier: the token that gets the whole of a character that it is a part of. Of other
            characters the first of their tokens does.
    """
    if not any(map(_KEPT_BYTE.search, texts)):
        return list(texts)
    parts = [text.encode("utf-8", "surrogateescape") for text in texts]
    ends = list(accumulate(map(len, parts)))
    shares, start = [""] * len(parts), 0
    for character in b"".join(parts).decode("utf-8", "surrogateescape"):
        stop = start + len(character.encode("utf-8", "surrogateescape"))
        first, last = bisect_right(ends, start), bisect_right(ends, stop - 1)
        shares[carrier if first <= carrier <= last else first] += character
        start = stop
    return shares


def escaped(text: str) -> str:
    r"""A text with its lone bytes written as `\xe2`."""
    if text.isascii():
        return text
    return _KEPT_BYTE.sub(lambda kept: escaped_byte(kept[0]), text)


def escaped_byte(kept: str) -> str:
    r"""One lone byte as `\xe2`."""
    return f"\\x{ord(kept) - 0xDC00:02x}"


_BEST_RANK = 3


def _anchor_rank(text: str) -> int:
    """How well a text serves as an anchor: letters, else what can be seen; 0 is not at all."""
    if not 0 < len(text) <= _MAX_ANCHOR_LENGTH or _REPLACEMENT in text:
        return 0
    if text.isascii() and text.isalpha():
        return _BEST_RANK if len(text) > 1 else 2
    return int(text.isprintable() and not any(map(str.isspace, text)))


def _decoder_of(tokenizer: Any) -> Callable[[list[int]], str]:
    if hasattr(tokenizer, "id_to_token"):
        return lambda ids: str(tokenizer.decode(ids, skip_special_tokens=False))
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        return lambda ids: str(
            tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )
    return lambda ids: str(tokenizer.decode(ids))


def _spellings_of(tokenizer: Any) -> dict[int, str]:
    if hasattr(tokenizer, "id_to_token"):
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    elif hasattr(tokenizer, "get_vocab"):
        vocabulary = tokenizer.get_vocab()
    else:
        return {i: str(tokenizer.decode([i])) for i in range(tokenizer.vocab_size)}
    return {i: token for token, i in vocabulary.items()}


def _added_ids(tokenizer: Any) -> frozenset[int]:
    if hasattr(tokenizer, "id_to_token"):
        return frozenset(tokenizer.get_added_tokens_decoder())
    return frozenset(getattr(tokenizer, "added_tokens_decoder", ()))


def _alphabet_of_bytes() -> dict[str, int]:
    """The characters that byte-level tokenizers spell bytes with."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + n): b for n, b in enumerate(unseen)}


_BYTE_OF = _alphabet_of_bytes()
