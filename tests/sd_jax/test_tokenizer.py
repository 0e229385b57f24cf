from __future__ import annotations

import hashlib
import importlib.resources
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from sd_jax.clip_vocabulary import shipped_vocabulary
from sd_jax.tokenizer import Tokenizer

BOS, EOS = 49406, 49407

# What the tokenizer of OpenAI's CLIP repository gives, written down from there.
KNOWN = {
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "A portrait of Zoë, 1024px; it's naïve -- l'été!": [
        *(320, 5352, 539, 4397, 40520, 267, 272, 271, 273, 275, 10262, 282, 585, 568, 1097),
        *(35689, 563, 2432, 331, 262, 3459, 39694, 256),
    ],
    "dog's 😀 \U0001fabf 日本語 Привет": [
        *(1929, 568, 7334, 558, 103, 379, 39121, 44353, 34002, 508, 26302, 16370, 29503, 110),
        *(22176, 141, 480),
    ],
    "[v1.5] (masterpiece:1.2), ultra-detailed...  8k\n\tHDR": [
        *(314, 341, 272, 269, 276, 316, 263, 12066, 281, 272, 269, 273, 2361, 8118, 268, 12609),
        *(678, 279, 330, 28065),
    ],
    "photographically counterrevolutionary": [1688, 3161, 10134, 14734],
    "": [],
}

# Text that tokenizers tend to treat differently from each other.
ODD_TEXTS = [
    *KNOWN,
    " \n\t ",
    "We're I'll you'd they've I'm don't IT'S 'sub",
    "e\u0301te\u0301 vs \u00e9t\u00e9, \ufb01ne \u212b x\u0300\u0301",
    "\u0130stanbul STRASSE \u1e9e \u03a3\u03a3 \u01c5",
    "a &amp; b &lt;tag&gt; <b>",
    "nul\x00 bell\x07 escape\x1b[0m soft\u00adhyphen zero\u200bwidth\u200djoiner \ufeff",
    "no\u00a0break\u2003em\u2028line\u3000wide\x85next",
    "👩‍👩‍👧‍👦 🏳️‍🌈 ❤️ 🇰🇷",
    "１２３ ½ ² ٣ Ⅷ",  # noqa: RUF001
    "end <|endoftext|> <|STARTOFTEXT|><|startoftext|>x </w> a</w>b",
    "!!! wow!? ... !a! ﷺ",
    "supercalifragilisticexpialidocious" * 20,
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.default()


@pytest.fixture(scope="module")
def nine_positions() -> Tokenizer:
    return Tokenizer.default(model_max_length=9)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder of only vocab.json and merges.txt, written without the code under test."""
    folder = tmp_path_factory.mktemp("clip")
    vocabulary = shipped_vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocabulary.ids))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in vocabulary.merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def reference(clip_folder: Path) -> transformers.CLIPTokenizer:
    vocab, merges = (str(clip_folder / name) for name in ("vocab.json", "merges.txt"))
    return transformers.CLIPTokenizer(vocab=vocab, merges=merges)


def reference_ids(reference: Any, texts: list[str], length: int = 77) -> np.ndarray:
    return np.array(
        reference(texts, padding="max_length", truncation=True, max_length=length).input_ids
    )


# The shipped vocabulary.


@pytest.mark.parametrize(("text", "expected"), KNOWN.items())
def test_known_ids(tokenizer: Tokenizer, text: str, expected: list[int]) -> None:
    row = [BOS, *expected, EOS]
    ids = tokenizer([text])
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, [row + [EOS] * (77 - len(row))])


def test_ids_of_a_recorded_run_of_the_text_encoder(tokenizer: Tokenizer) -> None:
    row = np.array([BOS, 320, 1125, 539, 320, 2368, 267, *[EOS] * 70])
    assert tokenizer.decode(row) == "a photo of a cat ,"
    np.testing.assert_array_equal(tokenizer(["a photo of a cat,"]), [row])


def test_special_ids_and_size(tokenizer: Tokenizer) -> None:
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (BOS, EOS, EOS)
    assert tokenizer.vocab_size == 49408


def test_readme_states_the_hash_of_the_merges() -> None:
    data = importlib.resources.files("sd_jax").joinpath("data")
    digest = hashlib.sha256(data.joinpath("clip_merges.txt.xz").read_bytes()).hexdigest()
    assert f"`{digest}` | `clip_merges.txt.xz`" in data.joinpath("README.md").read_text()


# The treatment of text.


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:prompt 0 has:UserWarning")
@pytest.mark.parametrize("text", ODD_TEXTS)
def test_odd_text_equals_transformers(tokenizer: Tokenizer, reference: Any, text: str) -> None:
    np.testing.assert_array_equal(tokenizer([text]), reference_ids(reference, [text]))


PIECES = [
    "'s",
    "'LL",
    "<|endoftext|>",
    "</w>",
    "\u0301",
    "\u00a0",
    " ",
    "7",
    "A cat",
    "&amp;",
    "🦤",
]


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:prompt . has:UserWarning")
@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.text(max_size=40) | st.lists(st.sampled_from(PIECES)).map("".join), max_size=4))
def test_random_text_equals_transformers(
    tokenizer: Tokenizer, reference: Any, texts: list[str]
) -> None:
    expected = reference_ids(reference, texts) if texts else np.zeros((0, 77))
    np.testing.assert_array_equal(tokenizer(texts), expected)


def test_lone_surrogates_are_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"prompt 1 .*surrogate.*; prompt 2 .*surrogate"):
        tokenizer(["fine", "\ud800", "x\udfff"])


def test_one_string_is_not_a_list_of_letters(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="expected a list of prompts"):
        tokenizer("a cat")


# Prompts longer than the text encoder.


def test_seventy_five_tokens_fit(tokenizer: Tokenizer) -> None:
    ids = tokenizer(["cat " * 75])  # a warning would be an error
    assert ids.tolist() == [[BOS, *[2368] * 75, EOS]]


def test_cut_names_the_prompt_and_the_lost_text(tokenizer: Tokenizer) -> None:
    lost = 'Zoe\u0301\'s "Big"\n CAT &amp; 🦤 '
    with pytest.warns(UserWarning, match="^prompt 1 has 8") as record:
        ids = tokenizer(["short", "dog " * 75 + lost])
    assert len(record) == 1
    assert f'cut off: "{lost.strip()}".' in str(record[0].message)
    assert ids.tolist()[1] == [BOS, *[1929] * 75, EOS]


def test_cut_inside_a_word_names_the_rest_of_it(tokenizer: Tokenizer) -> None:
    with pytest.warns(UserWarning, match='cut off: "ically lit"'):
        tokenizer(["dog " * 74 + "photographically lit"])


def test_chunks_are_framed_and_filled(tokenizer: Tokenizer) -> None:
    ids = tokenizer(["cat " * 80, "dog", ""], long_prompts="chunks").tolist()
    assert ids[0] == [BOS, *[2368] * 75, EOS, BOS, *[2368] * 5, *[EOS] * 71]
    assert ids[1] == [BOS, 1929, *[EOS] * 75, BOS, *[EOS] * 76]
    assert ids[2] == [BOS, *[EOS] * 76] * 2


def test_chunks_break_between_words(tokenizer: Tokenizer) -> None:
    """74 words and one of two tokens: all of the last word moves to the second chunk."""
    ids = tokenizer(["dog " * 74 + "photographically lit"], long_prompts="chunks")[0].tolist()
    assert ids[:77] == [BOS, *[1929] * 74, EOS, EOS]
    assert ids[77:82] == [BOS, 1688, 3161, 4350, EOS]


def test_chunks_break_a_word_that_no_chunk_holds(tokenizer: Tokenizer) -> None:
    word = "\U0001fabf" * 60  # one word, several tokens for each goose
    whole = Tokenizer.default(model_max_length=1000)([word])[0]
    whole = whole[1 : np.argmax(whole == EOS)]
    assert len(whole) > 150
    chunks = tokenizer(["dog " + word], long_prompts="chunks").reshape(-1, 77)
    assert chunks[0].tolist() == [BOS, 1929, *[EOS] * 75]
    np.testing.assert_array_equal(chunks[1], [BOS, *whole[:75], EOS])
    np.testing.assert_array_equal(chunks[2], [BOS, *whole[75:150], EOS])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=st.text(max_size=60))
def test_chunks_lose_nothing(nine_positions: Tokenizer, tokenizer: Tokenizer, text: str) -> None:
    """At most 60 letters are at most 240 tokens: the whole prompt fits in four chunks of 75."""
    fine = nine_positions([text], long_prompts="chunks").reshape(-1, 9)
    coarse = tokenizer([text], long_prompts="chunks").reshape(-1, 77)
    assert set(fine[:, 0]) == {BOS}
    assert set(fine[:, 1:].max(axis=1)) == {EOS}
    np.testing.assert_array_equal(fine[fine < BOS], coarse[coarse < BOS])


def test_num_chunks_is_a_minimum(tokenizer: Tokenizer) -> None:
    prompts = ["cat " * 80]
    assert tokenizer(prompts, long_prompts="chunks", num_chunks=1).shape == (1, 2 * 77)
    assert tokenizer(prompts, long_prompts="chunks", num_chunks=3).shape == (1, 3 * 77)
    negative = tokenizer([""], long_prompts="chunks", num_chunks=2)
    assert negative.tolist() == [[BOS, *[EOS] * 76] * 2]


@pytest.mark.parametrize(
    "arguments", [{"long_prompts": "chunks", "num_chunks": 0}, {"num_chunks": 2}]
)
def test_bad_num_chunks(tokenizer: Tokenizer, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"num_chunks is \d, expected 1 or more, and only with"):
        tokenizer(["a"], **arguments)


def test_empty_batch(tokenizer: Tokenizer) -> None:
    assert tokenizer([]).shape == (0, 77)
    assert tokenizer([], long_prompts="chunks", num_chunks=2).shape == (0, 154)


def test_shorter_text_encoder() -> None:
    short = Tokenizer.default(model_max_length=5)
    assert short(["a cat"]).tolist() == [[BOS, 320, 2368, EOS, EOS]]
    with pytest.raises(ValueError, match="model_max_length is 2, expected 3 or more"):
        Tokenizer.default(model_max_length=2)


# Back to text.


def test_decode_leaves_special_tokens_out(tokenizer: Tokenizer) -> None:
    ids = tokenizer(["Zoë's 🦤, 12 </w>"])[0]
    assert tokenizer.decode(ids) == "zoë 's 🦤, 1 2 </ w >"
    assert tokenizer.decode([320, 2368]) == "a cat"
    assert tokenizer.decode([]) == ""


def test_decode_joins_chunks(tokenizer: Tokenizer) -> None:
    ids = tokenizer(["cat " * 80], long_prompts="chunks")[0]
    assert tokenizer.decode(ids) == "cat " * 79 + "cat"


@pytest.mark.parametrize(
    ("ids", "message"),
    [([320, 49408, -1], r"49408 of the vocabulary: \[49408, -1\]"), ([[320]], r"shape \(1, 1\)")],
)
def test_decode_refuses(tokenizer: Tokenizer, ids: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer.decode(np.array(ids))


def test_tokens_are_the_text_behind_each_position(tokenizer: Tokenizer) -> None:
    text = "Zoe\u0301's  PHOTOGRAPHICALLY \U0001fabf"
    tokens = tokenizer.tokens(text)
    goose = "\U0001fabf"
    expected = ["Zo", "é", "'s", "PHOTOGRAPH", "ICALLY", goose, goose, goose]
    assert tokens == ["<|startoftext|>", *expected, "<|endoftext|>"]
    assert tokenizer([text])[0].tolist().index(EOS) == len(tokens) - 1


# Folders; which files they may hold is tested with `clip_vocabulary`.


def test_folder_of_vocab_and_merges_only(clip_folder: Path, tokenizer: Tokenizer) -> None:
    loaded = Tokenizer.from_folder(clip_folder)
    assert loaded.model_max_length == 77
    np.testing.assert_array_equal(loaded(list(KNOWN)), tokenizer(list(KNOWN)))


@pytest.mark.parity
def test_saved_folder_loads_in_transformers(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = tmp_path / "made" / "tokenizer"
    tokenizer.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")
    ]
    texts = list(KNOWN)
    reference = transformers.CLIPTokenizer.from_pretrained(folder)
    assert reference.model_max_length == 77
    np.testing.assert_array_equal(tokenizer(texts), reference_ids(reference, texts))
    np.testing.assert_array_equal(tokenizer(texts), Tokenizer.from_folder(folder)(texts))


def test_save_does_not_mix_with_other_files(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"already holds tokenizer\.json"):
        tokenizer.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_travels_to_loader_processes(tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(copy(list(KNOWN)), tokenizer(list(KNOWN)))
