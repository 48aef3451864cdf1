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
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import accumulate
from typing import Any, cast

import numpy as np

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
        """Every id that the tokenizer knows, with the token's own spelling."""
        return _spellings_of(self._tokenizer)

    @cached_property
    def ids(self) -> list[int]:
        """Every id that the tokenizer knows, in rising order."""
        return sorted(self.spellings)

    @cached_property
    def sha256(self) -> str:
        """Digest of all tokens with their ids, and of how a sample of them is decoded."""
        tokens = "\0".join(map(self.spellings.__getitem__, self.ids))
        sample = self._decode(self.ids[:: max(1, len(self.ids) // _DIGEST_SAMPLE)])
        digest = hashlib.sha256(np.array(self.ids, "<u8").tobytes())
        digest.update(f"{tokens}\0{sample}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    @cached_property
    def all(self) -> dict[int, str]:
        """The texts of all ids that the tokenizer knows, in rising order."""
        return dict(zip(self.ids, self._made(self.ids), strict=True))

    def __getitem__(self, token_id: int) -> str:
        """The text of an id that the tokenizer knows; bytes without text are lone surrogates."""
        if token_id not in self._texts:
            (self._texts[token_id],) = self._made([token_id])
        return self._texts[token_id]

    def _made(self, ids: Sequence[int]) -> Iterator[str]:
        # Written out in one loop: there may be 256,000 ids.
        decode, (anchor, before, after) = self._decode, self._anchor or (-1, "", "")
        start, end = len(before), len(after)
        for token_id in ids:
            if anchor < 0:
                text = decode([token_id])
            else:
                whole = decode([anchor, token_id, anchor])
                text = whole[start : len(whole) - end]
                ends = whole.startswith(before) and whole.endswith(after)
                if not ends or len(whole) < start + end:
                    text = self._after_anchor(token_id)
            yield text if text and text.isascii() else self._mended(token_id, text)

    def _after_anchor(self, token_id: int) -> str:
        """The text of an id that changes what follows it, or the text before it."""
        anchor, before, _ = cast("tuple[int, str, str]", self._anchor)
        whole = self._decode([anchor, token_id])
        return whole[len(before) :] if whole.startswith(before) else self._decode([token_id])

    def _mended(self, token_id: int, text: str) -> str:
        """A text with bytes that form no character as lone surrogates, and without others."""
        if not text or _REPLACEMENT in text:
            part = self._bytes_of(token_id, text)
            return text if part is None else part.decode("utf-8", "surrogateescape")
        return text.encode("utf-8", "backslashreplace").decode()

    @cached_property
    def _anchor(self) -> tuple[int, str, str] | None:
        """Id of the anchor, its text at the start of a text, and what it adds at the end of one."""
        best, rank = None, 0
        for token_id in self.ids[:_MAX_ANCHOR_SEARCH]:
            if token_id in self._added:
                continue
            text, spelling = self._decode([token_id]), self.spellings[token_id]
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
        return partial(tokenizer.decode, skip_special_tokens=False)
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        return partial(
            tokenizer.decode, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
    return cast("Callable[[list[int]], str]", tokenizer.decode)


def _spellings_of(tokenizer: Any) -> dict[int, str]:
    if hasattr(tokenizer, "id_to_token"):
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    elif hasattr(tokenizer, "get_vocab"):
        vocabulary = tokenizer.get_vocab()
    else:
        return {i: str(tokenizer.decode([i])) for i in range(tokenizer.vocab_size)}
    return dict(zip(vocabulary.values(), vocabulary.keys(), strict=True))


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
