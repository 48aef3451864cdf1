"""Readers of token rows and tokenizers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from harvest_assets.data.token_rows import TokenRows, write_manifest, write_tokens
from harvest_assets.data.vocabulary import Vocabulary
from harvest_assets_tests.files.sealed import change
from harvest_assets_tests.hostile.readers.reader import Reader, put, put_sealed


class TokenRowsDescription(Reader):
    """`rows.json`."""

    FILE = "rows.json"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        tokens = np.arange(24).reshape(6, 4)
        file = write_tokens(folder, [tokens], 4, None)
        write_manifest(folder, [file], np.arange(6)[::-1].copy(), 4, {})

    def seeds(self) -> list[bytes]:
        return [(self.folder / self.FILE).read_bytes()]

    def read(self, content: bytes) -> None:
        put_sealed(self.folder / self.FILE, content)
        rows = TokenRows.open(self.folder)
        assert rows.rows(0, rows.n_rows).shape == (rows.n_rows, rows.n_ctx)


class TokenRowsOrder(TokenRowsDescription):
    """`order.npy`."""

    FILE = "order.npy"


class TokenRowsArrow(TokenRowsDescription):
    """The Arrow file of rows, of the recorded size."""

    FILE = "tokens.arrow"

    def seeds(self) -> list[bytes]:
        lists = pa.array([[1, 2, 3, 4]] * 6, pa.list_(pa.int32()))
        sink = io.BytesIO()
        with pa.ipc.new_file(sink, pa.schema([("tokens", lists.type)])) as writer:
            writer.write_batch(pa.record_batch([lists], names=["tokens"]))
        return [*super().seeds(), sink.getvalue()]

    def read(self, content: bytes) -> None:
        manifest = self.folder / "rows.json"
        (file,) = json.loads(manifest.read_bytes())["files"]
        change(manifest, files=[{**file, "size": len(content)}])
        super().read(content)


def _small_tokenizer() -> bytes:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocab = {"[UNK]": 0, "a": 1, "b": 2, "ab": 3}
    tokenizer = Tokenizer(models.BPE(vocab, [("a", "b")], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("[EOS]", special=True)])
    return tokenizer.to_str().encode()


class TokenizerFile(Reader):
    """`tokenizer.json`."""

    def seeds(self) -> list[bytes]:
        return [_small_tokenizer()]

    def read(self, content: bytes) -> None:
        put(self.folder / "tokenizer.json", content)
        vocabulary = Vocabulary.open(str(self.folder))
        for token in (-1, 0, 1, vocabulary.size - 1, vocabulary.size):
            assert isinstance(vocabulary.shown(token).text, str)
