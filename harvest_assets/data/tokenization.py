"""How training turned text into rows of tokens, oddities included.

Rows of text come in groups of 1,000. A group is joined with the EOS token, the string is cut into
20 pieces of equal length wherever that falls, each piece is tokenized by itself, in runs before
February 2026 with the special tokens the tokenizer adds, and what does not fill a last row of the
group is dropped.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harvest_assets.errors import HarvestError, reason_of
from harvest_assets.files.unwritable import advice

GROUP_SIZE = 1000
_PARTS = 10
_PIECES = 20


def group_bounds(n_texts: int) -> Iterator[tuple[int, int]]:
    """First and one-past-last text of each group, in order.

    The texts are first cut into ten contiguous parts, which training tokenized in ten processes; a
    group never crosses from one part into the next.
    """
    n_parts = min(_PARTS, n_texts)
    start = 0
    for part in range(n_parts):
        stop = start + n_texts // n_parts + (part < n_texts % n_parts)
        for first in range(start, stop, GROUP_SIZE):
            yield first, min(first + GROUP_SIZE, stop)
        start = stop


class Tokenizer:
    """The run's tokenizer, as its training used it.

    Args:
        name: hub name or local path.
        restores_eos: put the lower-cased EOS token back to its own case before tokenizing.
        special_tokens: each piece gets the special tokens that the tokenizer adds by itself.

    Raises:
        HarvestError: the tokenizer does not exist, or has no EOS token.
    """

    def __init__(self, name: str, *, restores_eos: bool, special_tokens: bool = True) -> None:
        self._tokenizer = load_tokenizer(name)
        self._special_tokens = special_tokens
        self._restores_eos = restores_eos
        if not isinstance(self._tokenizer.eos_token, str):
            raise HarvestError(f"The tokenizer {name!r} has no EOS token, which joins the texts.")

    def rows(self, texts: Sequence[str], n_ctx: int) -> NDArray[np.int32]:
        """The rows [n, n_ctx] of one group of texts."""
        encoded = self._tokenizer(
            self._pieces(texts), add_special_tokens=self._special_tokens, verbose=False
        )["input_ids"]
        n_tokens = sum(map(len, encoded)) // n_ctx * n_ctx
        tokens = np.fromiter(chain.from_iterable(encoded), dtype=np.int32, count=n_tokens)
        return tokens.reshape(-1, n_ctx)

    def _pieces(self, texts: Sequence[str]) -> list[str]:
        eos = self._tokenizer.eos_token
        text = eos.join(texts)
        length = (len(text) - 1) // _PIECES + 1
        pieces = [text[i * length : (i + 1) * length] for i in range(_PIECES)]
        return (
            [piece.replace(eos.lower(), eos) for piece in pieces] if self._restores_eos else pieces
        )


def load_tokenizer(name: str, *, download: bool = True) -> Any:
    """The `transformers` tokenizer with this hub name or local path.

    Args:
        name: of the tokenizer.
        download: whether to ask the hub for one that is not on this machine.

    Raises:
        HarvestError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        source = name if download else _folder_here(name)
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # loaders of many kinds: each raises what it likes
        raise HarvestError(
            f"The tokenizer {name[:500]!r} cannot be loaded: {reason_of(error)}.{advice(error)}"
        ) from error


def _folder_here(name: str) -> str:
    """The folder of a tokenizer on this machine; `transformers` asks the hub about any other name.

    Raises:
        OSError, ValueError: there is none.
    """
    from huggingface_hub import snapshot_download

    return name if Path(name).is_dir() else snapshot_download(name, local_files_only=True)


def tokenizer_digest(name: str) -> str:
    """SHA-256 of all that decides how the tokenizer splits text.

    Raises:
        HarvestError: there is no such tokenizer.
    """
    tokenizer = load_tokenizer(name)
    digest = hashlib.sha256(f"{type(tokenizer).__name__}\0{tokenizer.eos_token}\0".encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        digest.update(backend.to_str().encode())
        return digest.hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()
