"""One text for each token, whatever the kind of tokenizer, and the same in every reader."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from harvest_assets.data.vocabulary import Vocabulary
from harvest_assets_tests.data.tokenizer_kinds import KINDS, SPECIAL, byte_level, llama_like

WORDS = [
    "the",
    "red",
    "fox",
    "hens",
    "do",
    "don't",
    "(",
    ")",
    "!",
    ",",
    "a,",
    "2027",
    "10",
    "unhappy",
]
OTHERS = [
    "caf\u00e9",
    "\U0001f98a",
    "\u65e5\u672c",
    "it\u2019s",
    "\n",
    "x\ty",
    "\U0001f469\u200d\U0001f467",
]


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    return KINDS[kind]()


@cache
def vocabulary_of(kind: str) -> Vocabulary:
    return Vocabulary(tokenizer_of(kind))


@pytest.mark.parametrize("kind", KINDS)
@given(words=st.lists(st.sampled_from(WORDS + OTHERS), min_size=1, max_size=12), data=st.data())
def test_texts_in_a_row_are_the_decoded_text(kind: str, words: list[str], data):
    tokenizer, vocabulary = tokenizer_of(kind), vocabulary_of(kind)
    ids = tokenizer.encode(" ".join(words), add_special_tokens=False).ids
    if not ids:
        return
    decoded = tokenizer.decode(ids, skip_special_tokens=False)
    firing = data.draw(st.integers(0, len(ids) - 1))
    context = vocabulary.context(ids, firing)
    assert len(context) == len(ids)
    text = "".join(context)
    # Where a token ends a word, the space after the last word is one too many.
    text = text.removesuffix(" ") if kind == "end of word" else text
    assert text in (decoded, f" {decoded}")
    if not any("\\x" in vocabulary.text(i) for i in ids):
        assert context == [vocabulary.text(i) for i in ids]


@pytest.mark.parametrize("kind", ["llama", "gemma", "t5"])
def test_tokens_keep_their_spaces(kind: str):
    tokenizer, vocabulary = tokenizer_of(kind), vocabulary_of(kind)
    for spelling, i in tokenizer.get_vocab().items():
        if not spelling.startswith("<"):
            assert vocabulary.text(i) == spelling.replace("\u2581", " ")
    fox = tokenizer.token_to_id("\u2581fox")
    assert fox in vocabulary.ids_with(" fox")
    assert vocabulary.ids_with('" fox"') == [fox]


def test_words_that_a_decoder_puts_spaces_between():
    vocabulary = vocabulary_of("bert")
    for spelling, i in tokenizer_of("bert").get_vocab().items():
        if spelling.isalpha():
            assert vocabulary.text(i) == f" {spelling}"
        elif spelling.startswith("##"):
            assert vocabulary.text(i) == spelling[2:]


def test_byte_level_texts_are_those_of_the_ids_alone():
    tokenizer = byte_level()
    vocabulary = Vocabulary(tokenizer)
    whole = 0
    for i in range(tokenizer.get_vocab_size()):
        alone = tokenizer.decode([i], skip_special_tokens=False)
        if "\ufffd" not in alone:
            assert vocabulary.text(i) == alone
            whole += 1
    assert whole > 150
    assert vocabulary.text(tokenizer.token_to_id("    ")) == "    "


FOX = "\U0001f98a".encode()


def bytes_only(kind: str) -> tuple[Tokenizer, list[int]]:
    """A tokenizer without merges, and the tokens of a fox, one a byte."""
    if kind == "byte fallback":
        tokenizer = llama_like(["a fox"], 300)
    else:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    ids = tokenizer.encode("\U0001f98a", add_special_tokens=False).ids[-4:]
    return tokenizer, ids


@pytest.mark.parametrize("kind", ["byte level", "byte fallback", "byte characters"])
def test_parts_of_a_character_are_bytes_and_whole_in_contexts(kind: str):
    if kind == "byte characters":
        tokenizer = ByT5Tokenizer()
        ids = tokenizer("\U0001f98a", add_special_tokens=False)["input_ids"]
        x, unknown = tokenizer.convert_tokens_to_ids("x"), 5000
    else:
        tokenizer, ids = bytes_only(kind)
        x, unknown = tokenizer.encode("x", add_special_tokens=False).ids[-1], 5000
    vocabulary = Vocabulary.of(tokenizer)
    assert [vocabulary.text(i) for i in ids] == [f"\\x{byte:02x}" for byte in FOX]
    assert vocabulary.text(x) == "x"
    assert vocabulary.shown(ids[0]).pieces[0].kind == "sign"
    row = [-1, x, *ids, x, ids[0], unknown, *ids[:2]]
    fox = "\U0001f98a"
    rest = ["x", "\\xf0", "#5000", "\\xf0", "\\x9f"]
    assert vocabulary.context(row, 1) == ["", "x", fox, "", "", "", *rest]
    assert vocabulary.context(row, 4) == ["", "x", "", "", fox, "", *rest]
    shown = vocabulary.shown_context(row, 4)
    assert [token.text for token in shown] == vocabulary.context(row, 4)
    assert [token.token_id for token in shown] == row
    assert vocabulary.ids_with("\\xf0") == [ids[0]]


def test_a_token_may_hold_a_character_and_a_part_of_one():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelled = ["\u0120\u00e2", "\u0122", "\u013bs"]  # b" \xe2", b"\x80", b"\x99s"
    vocabulary = {token: i for i, token in enumerate([*alphabet, *spelled])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.decoder = decoders.ByteLevel()
    ids = [vocabulary[token] for token in spelled]
    texts = Vocabulary(tokenizer)
    assert tokenizer.decode(ids) == " \u2019s"
    assert [texts.text(i) for i in ids] == [" \\xe2", "\\x80", "\\x99s"]
    assert texts.context(ids, 0) == [" \u2019", "", "s"]
    assert texts.context(ids, 1) == [" ", "\u2019", "s"]
    assert texts.context(ids, 2) == [" ", "", "\u2019s"]


def test_a_replacement_character_of_the_vocabulary_stays_one():
    for decoder in (decoders.Fuse(), decoders.ByteLevel()):
        tokenizer = Tokenizer(models.WordLevel({"word": 0, "\ufffd": 1}, unk_token="word"))
        tokenizer.decoder = decoder
        assert Vocabulary(tokenizer).text(1) == "\ufffd"


def test_transformers_gives_the_same_texts_and_cleans_nothing_up():
    for kind in KINDS:
        fast = tokenizer_of(kind)
        wrapped = PreTrainedTokenizerFast(
            tokenizer_object=fast, clean_up_tokenization_spaces=True, eos_token="</s>"
        )
        one, other = Vocabulary.of(wrapped), Vocabulary(wrapped.backend_tokenizer)
        assert one.sha256 == other.sha256
        assert [one.text(i) for i in range(one.size)] == [other.text(i) for i in range(one.size)]


def test_special_tokens_have_their_own_text():
    tokenizer = llama_like()
    vocabulary = Vocabulary(tokenizer)
    assert [vocabulary.text(tokenizer.token_to_id(token)) for token in SPECIAL] == SPECIAL


@pytest.mark.parametrize("texts", [["<b>&"], ["1"], ["\n", " "], ["\ufffd"], [""], []])
def test_vocabularies_without_an_ordinary_word(texts: list[str]):
    tokenizer = Tokenizer(models.WordLevel({text: i for i, text in enumerate(texts)}, "x"))
    tokenizer.decoder = decoders.Fuse()
    vocabulary = Vocabulary(tokenizer)
    assert [vocabulary.text(i) for i in range(len(texts))] == texts
    assert vocabulary.context(range(len(texts)), 0) == texts
    assert vocabulary.text(len(texts)) == f"#{len(texts)}"
    assert vocabulary.text(-1) == ""


class Plain:
    """The least that a tokenizer needs: it drops the first space."""

    vocab_size = 3

    def decode(self, ids: list[int]) -> str:
        return "".join(["\u65e5", " red", " fox"][i] for i in ids).lstrip()


def test_anything_that_decodes_will_do():
    vocabulary = Vocabulary.of(Plain())
    assert [vocabulary.text(i) for i in range(4)] == ["\u65e5", " red", " fox", "#3"]
    assert vocabulary.vocab_size == 3


def with_gaps() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"red": 0, "fox": 60, "hen": 90}, unk_token="red"))
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


@pytest.mark.parametrize("wrapped", [False, True])
def test_ids_beyond_a_gap_are_known(wrapped: bool):
    tokenizer = with_gaps()
    eos = tokenizer.token_to_id("<eos>")
    if wrapped:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    vocabulary = Vocabulary.of(tokenizer)
    assert vocabulary.vocab_size == 91
    assert vocabulary.size == max(91, eos + 1)
    assert [vocabulary.text(i) for i in (0, 60, 90, 59, 91)] == ["red", "fox", "hen", "#59", "#91"]
    assert vocabulary.text(eos) == "<eos>"
    assert vocabulary.shown(59).text == "#59"
    assert vocabulary.ids_with("e") == sorted([0, 90, eos])


def test_the_limit_of_a_vocabulary_without_gaps_is_its_size():
    for kind in KINDS:
        fast = tokenizer_of(kind)
        wrapped = PreTrainedTokenizerFast(tokenizer_object=fast)
        assert Vocabulary.of(wrapped).vocab_size == wrapped.vocab_size
        assert Vocabulary.of(wrapped).size == len(wrapped)


def test_ids_far_apart_cost_no_more():
    tokenizer = Tokenizer(models.WordLevel({"red": 0, "fox": 2**32 - 1}, unk_token="red"))
    vocabulary = Vocabulary(tokenizer)
    assert vocabulary.ids_with("fox") == [2**32 - 1]
    assert vocabulary.vocab_size == 2**32
