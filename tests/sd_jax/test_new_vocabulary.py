"""A vocabulary learned from texts works like CLIP's own."""

from __future__ import annotations

import pytest

from sd_jax.new_vocabulary import learn_vocabulary
from sd_jax.tokenizer import Tokenizer

TEXTS = ["a red ball in a meadow", "two red balls, and a box", "A Box in the MEADOW"] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(learn_vocabulary(TEXTS, model_max_length=12), 12)


def test_words_of_the_texts_are_one_token_each(tokenizer):
    text = "Two red balls, and a box in the meadow"
    pieces = tokenizer.tokens(text)[1:-1]
    assert pieces == ["Two", "red", "balls", ",", "and", "a", "box", "in", "the", "meadow"]
    assert tokenizer.decode(tokenizer([text])[0]) == "two red balls , and a box in the meadow"


def test_any_other_text_is_spelled(tokenizer):
    ids = tokenizer(["wörld ☃"])[0]
    assert tokenizer.decode(ids) == "wörld ☃"
    assert len(set(ids)) > 5


def test_ids_are_numbered_as_clips(tokenizer):
    vocabulary = learn_vocabulary(TEXTS, model_max_length=12)
    assert vocabulary.ids["!"] == 0
    assert vocabulary.ids["!</w>"] == 256
    assert sorted(vocabulary.ids.values()) == list(range(len(vocabulary.ids)))
    assert tokenizer.eos_id == tokenizer.pad_id == len(vocabulary.ids) - 1
    assert tokenizer.bos_id == tokenizer.eos_id - 1


def test_the_same_texts_make_the_same_vocabulary():
    assert learn_vocabulary(TEXTS) == learn_vocabulary(list(TEXTS))
    fewer = learn_vocabulary(TEXTS, max_merges=5)
    assert fewer.merges == learn_vocabulary(TEXTS).merges[:5]
    assert Tokenizer(fewer, 77)(["a red ball"]).shape == (1, 77)


def test_transformers_reads_it_to_the_same_ids(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path / "tokenizer")
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    texts = [*TEXTS, "", "wörld ☃ 12's", "a red ball " * 9]
    expected = theirs(texts, padding="max_length", truncation=True, max_length=12)["input_ids"]
    assert tokenizer(texts, warn=False).tolist() == expected
    ours = Tokenizer.from_folder(tmp_path / "tokenizer")
    assert ours.model_max_length == 12
    assert ours(texts, warn=False).tolist() == expected
