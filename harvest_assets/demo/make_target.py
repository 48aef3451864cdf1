"""Train the demo's target: a language model of two layers, and its tokenizer, on docstrings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy

from harvest_assets.decompositions.spd.targets.llama_simple_mlp import (
    LlamaSimpleMLP,
    LlamaSimpleMLPConfig,
)

EOS = "<|endoftext|>"
CONTEXT_LENGTH = 64

CONFIG = LlamaSimpleMLPConfig(
    block_size=CONTEXT_LENGTH,
    n_ctx=CONTEXT_LENGTH,
    vocab_size=1024,
    n_layer=2,
    n_head=4,
    n_key_value_heads=2,
    n_embd=64,
    n_intermediate=256,
    rotary_base=10000,
    rms_norm_eps=1e-6,
)
_STEPS = 6000
_BATCH_SIZE = 32
_LEARNING_RATE = 4e-3
_HELD_OUT = 0.05


@dataclass(frozen=True)
class Corpus:
    """Rows of tokens, int64 [n, CONTEXT_LENGTH]."""

    training: torch.Tensor
    held_out: torch.Tensor

    def batches(self, n: int, seed: int) -> Iterator[torch.Tensor]:
        """`n` batches of training rows drawn with replacement."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(n):
            yield self.training[
                torch.randint(len(self.training), (_BATCH_SIZE,), generator=generator)
            ]


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE tokenizer of the target's vocabulary size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG.vocab_size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenized(texts: list[str], tokenizer: Tokenizer) -> Corpus:
    """The texts, EOS between them, cut into rows; a twentieth of them is held out."""
    ids = [token for text in texts for token in tokenizer.encode(text + EOS).ids]
    n_rows = len(ids) // CONTEXT_LENGTH
    rows = torch.tensor(ids[: n_rows * CONTEXT_LENGTH]).view(n_rows, CONTEXT_LENGTH)
    rows = rows[torch.randperm(n_rows, generator=torch.Generator().manual_seed(0))]
    n_training = round(n_rows * (1 - _HELD_OUT))
    return Corpus(rows[:n_training], rows[n_training:])


def train_target(corpus: Corpus) -> LlamaSimpleMLP:
    """Train by AdamW with a warm-up and a cosine; takes about five minutes on two cores."""
    torch.manual_seed(0)
    target = LlamaSimpleMLP(CONFIG)
    for parameter in target.parameters():
        if parameter.ndim == 2:  # noqa: PLR2004
            torch.nn.init.normal_(parameter, std=0.02)
    optimizer = torch.optim.AdamW(target.parameters(), _LEARNING_RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _LEARNING_RATE, _STEPS, pct_start=0.05
    )
    for tokens in track(corpus.batches(_STEPS, seed=1), "Language model", total=_STEPS):
        optimizer.zero_grad()
        next_token_loss(target, tokens).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(target.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return target.requires_grad_(requires_grad=False).eval()


def next_token_loss(target: LlamaSimpleMLP, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the next token, in nats, over rows int64 [B, S]."""
    logits = target(tokens[:, :-1])[0]
    return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
