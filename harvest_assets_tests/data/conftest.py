"""Fixtures for tests of the data: a tokenizer, and the rows of a spec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from harvest_assets.data.data import DataSpec, TokenRows, write_token_rows

WORDS = ["the", "cat", "Éva", "runs", "[eos]", "[EOS]", "naïve", "日本", "x1", "and", "  ", "\n"]
EOS, UNKNOWN = "[EOS]", "[UNK]"


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small byte-level BPE that adds an EOS to whatever it encodes."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[UNKNOWN, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 50, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, 1)]
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, unk_token=UNKNOWN, model_max_length=32
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def harvest_rows(tmp_path: Path) -> Callable[..., torch.Tensor]:
    """Write the rows of a spec and read them all back."""

    def written(spec: DataSpec, n_rows: int | None = None) -> torch.Tensor:
        directory = tmp_path / f"rows-{len(list(tmp_path.glob('rows-*')))}"
        directory.mkdir()
        write_token_rows(spec, directory, n_rows, None)
        rows = TokenRows.open(directory)
        tokens = rows.rows(0, rows.n_rows)
        assert tokens.dtype == torch.int64
        assert tokens.shape == (rows.n_rows, spec.n_ctx)
        assert rows.n_ctx == spec.n_ctx
        return tokens

    return written
