from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from sd_jax.clip_vocabulary import Vocabulary
from sd_jax.tokenizer import Tokenizer, load_tokenizer


def write_tiny_folder(folder: Path, **config: Any) -> Path:
    """Writes a vocabulary of ten tokens; `config` becomes tokenizer_config.json, if any."""
    folder.mkdir(exist_ok=True)
    tokens = ["!", "a", "b", "!</w>", "a</w>", "b</w>", "ab</w>", "aab</w>"]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\na ab</w>\n")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def reference_ids(reference: Any, texts: list[str], length: int = 77) -> np.ndarray:
    return np.array(
        reference(texts, padding="max_length", truncation=True, max_length=length).input_ids
    )


def test_tokenizer_json_that_was_saved_with_truncation(tmp_path: Path) -> None:
    reference = transformers.CLIPTokenizer.from_pretrained(write_tiny_folder(tmp_path / "tiny"))
    reference_ids(reference, ["a b"], length=4)  # leaves truncation and padding switched on
    reference.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer.json").read_text())
    assert saved["truncation"]["max_length"] == 4
    texts = ["a b ab aab"]
    ids = Tokenizer.from_folder(tmp_path / "saved")(texts)
    assert ids[0, :7].tolist() == [8, 4, 5, 6, 7, 9, 9]
    np.testing.assert_array_equal(ids, reference_ids(reference, texts))


def test_tokenizer_json_with_merges_joined_by_spaces(tmp_path: Path) -> None:
    model = {"type": "BPE", "end_of_word_suffix": "</w>", "merges": ["a b</w>"]}
    vocab = json.loads((write_tiny_folder(tmp_path) / "vocab.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {**model, "vocab": vocab}}))
    assert Tokenizer.from_folder(tmp_path, 7)(["ab aab"]).tolist() == [[8, 6, 1, 6, 9, 9, 9]]


@pytest.mark.parity
@pytest.mark.parametrize("where", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("pad", ["!", {"content": "!", "normalized": True, "lstrip": True}])
def test_padding_token_of_the_folder(tmp_path: Path, where: str, pad: Any) -> None:
    """Stable Diffusion 2 pads with "!"; the word "!" is then a padding token as well."""
    if isinstance(pad, dict) and where == "tokenizer_config.json":
        pad = {"__type": "AddedToken", **pad}
    folder = write_tiny_folder(tmp_path / "tiny")
    (folder / where).write_text(json.dumps({"pad_token": pad}))
    loaded = Tokenizer.from_folder(folder)
    assert loaded.pad_id == 0
    ids = loaded(["ab ! a", "b"])
    assert ids[:, :6].tolist() == [[8, 6, 0, 4, 9, 0], [8, 5, 9, 0, 0, 0]]
    reference = transformers.CLIPTokenizer.from_pretrained(folder)
    np.testing.assert_array_equal(ids, reference_ids(reference, ["ab ! a", "b"]))
    assert loaded.decode(ids[0]) == "ab ! a"


@pytest.mark.parity
@pytest.mark.parametrize(
    ("pad_normalized", "matches"), [(None, False), (False, False), (True, True)]
)
def test_flags_of_special_tokens(
    tmp_path: Path, pad_normalized: bool | None, matches: bool
) -> None:
    """A normalized token matches in any case; of the roles that share a token padding decides."""
    eos = {"content": "<|endoftext|>", "normalized": True}
    pad = eos | {"normalized": pad_normalized} if pad_normalized is not None else "<|endoftext|>"
    folder = write_tiny_folder(tmp_path)
    special = {"eos_token": eos, "unk_token": eos, "pad_token": pad}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    loaded, texts = Tokenizer.from_folder(folder), ["a <|ENDOFTEXT|> b", "a<|endoftext|>b"]
    assert (loaded(texts)[0, :4].tolist() == [8, 4, 9, 5]) is matches
    reference = transformers.CLIPTokenizer.from_pretrained(folder)
    np.testing.assert_array_equal(loaded(texts), reference_ids(reference, texts))


@pytest.mark.parity
@pytest.mark.parametrize("layout", ["added_tokens_decoder", "added_tokens.json", "tokenizer.json"])
def test_added_tokens(tmp_path: Path, layout: str) -> None:
    """Tokens of textual inversion, in each of the three ways that folders have of listing them."""
    folder = write_tiny_folder(tmp_path / "tiny")
    if layout == "added_tokens_decoder":
        decoder = {"11": {"content": "<猫>"}, "10": {"content": "<Toy>", "special": True}}
        write_tiny_folder(folder, added_tokens_decoder=decoder)
    elif layout == "added_tokens.json":
        (folder / layout).write_text(json.dumps({"<猫>": 11, "<Toy>": 10}))
    else:
        maker = transformers.CLIPTokenizer.from_pretrained(folder)
        maker.add_tokens(["<Toy>", "<猫>"])
        maker.save_pretrained(folder)
    loaded, texts = Tokenizer.from_folder(folder), ["a <Toy> b<猫>ab", "<toy>"]
    assert loaded(texts)[0, :8].tolist() == [8, 4, 10, 5, 11, 6, 9, 9]
    assert loaded.decode(loaded(texts)[0]) == "a <Toy> b <猫> ab"
    reference = transformers.CLIPTokenizer.from_pretrained(folder)
    np.testing.assert_array_equal(loaded(texts), reference_ids(reference, texts))
    loaded.save(tmp_path / "saved")
    for again in (
        Tokenizer.from_folder(tmp_path / "saved")(texts),
        reference_ids(transformers.CLIPTokenizer.from_pretrained(tmp_path / "saved"), texts),
    ):
        np.testing.assert_array_equal(again, loaded(texts))


@pytest.mark.parity
def test_added_tokens_decoder_has_the_last_word(tmp_path: Path) -> None:
    """Over the flags of special tokens and over special_tokens_map.json."""
    decoder = {
        "9": {"content": "<|endoftext|>", "normalized": True, "special": True},
        "10": {"content": "a \u00c5"},
    }
    folder = write_tiny_folder(tmp_path, added_tokens_decoder=decoder, eos_token="<|endoftext|>")
    (folder / "special_tokens_map.json").write_text('{"pad_token": "!"}')
    loaded, texts = Tokenizer.from_folder(folder), ["b<|ENDOFTEXT|>b", "a\n\tA\u030a b"]
    assert loaded(texts)[:, :6].tolist() == [[8, 5, 9, 5, 9, 9], [8, 10, 5, 9, 9, 9]]
    reference = transformers.CLIPTokenizer.from_pretrained(folder)
    np.testing.assert_array_equal(loaded(texts), reference_ids(reference, texts))


@pytest.mark.parametrize(("written", "expected"), [(8, 8), (10**30, 77), (None, 77)])
def test_length_of_the_folder(tmp_path: Path, written: int | None, expected: int) -> None:
    config = {} if written is None else {"model_max_length": written}
    folder = write_tiny_folder(tmp_path, **config)
    assert Tokenizer.from_folder(folder).model_max_length == expected
    assert Tokenizer.from_folder(folder, model_max_length=5)(["a"]).shape == (1, 5)


BAD_MODEL = {"vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "</w>"}
BAD_FILES = {
    "not JSON": ({"vocab.json": "{"}, r"tiny: cannot read vocab.json, merges.txt"),
    "not merges": ({"merges.txt": "#version: 0.2\na b c\n"}, "cannot read .* line 1"),
    "merge of unknown tokens": ({"merges.txt": "a z\n"}, "merges do not fit .*`z`"),
    "no special tokens": (
        {"vocab.json": '{"a": 0}', "merges.txt": ""},
        r"tiny: .*bos_token '<\|startoftext\|>' is neither.*; eos_token '<\|endoftext\|>'",
    ),
    "shared ids": (
        {"vocab.json": '{"a": 0, "<|startoftext|>": 0, "<|endoftext|>": 1}', "merges.txt": ""},
        "several tokens share an id",
    ),
    "config not JSON": ({"tokenizer_config.json": "]"}, r"tokenizer_config.json cannot be read"),
    "config not an object": ({"tokenizer_config.json": "[]"}, "config.json holds a list"),
    "padding token unknown": (
        {"tokenizer_config.json": '{"pad_token": "<pad>"}'},
        "tiny: .*pad_token '<pad>' is neither",
    ),
    "padding token a number": ({"special_tokens_map.json": '{"pad_token": 3}'}, "pad_token is 3"),
    "length a word": ({"tokenizer_config.json": '{"model_max_length": "x"}'}, "length is 'x'"),
    "length too short": ({"tokenizer_config.json": '{"model_max_length": 2}'}, "tiny: .*is 2"),
    "gap before an added token": (
        {"added_tokens.json": '{"<cat>": 12}'},
        "tiny: .*'<cat>' has the id 12, the vocabulary makes it 10",
    ),
    "added token without an id": ({"added_tokens.json": '{"<cat>": null}'}, "without an id: None"),
    "tokenizer.json of another model": (
        {"tokenizer.json": '{"model": {"type": "Unigram"}}'},
        "tokenizer.json: 'model' is not CLIP's",
    ),
    "tokenizer.json without ids": (
        {"tokenizer.json": json.dumps({"model": BAD_MODEL | {"vocab": {"a": "0"}}})},
        "'model.vocab' must be",
    ),
    "tokenizer.json with a merge of three": (
        {"tokenizer.json": json.dumps({"model": BAD_MODEL | {"merges": [["a", "b", "c"]]}})},
        "'model.merges' entry 0 is",
    ),
}


def test_vocabulary_names_all_its_problems() -> None:
    ids, eos = {"a": -1, "b": 0, "c": 0}, {"content": "<|endoftext|>"}
    expected = (
        r"bos_token is missing; pad_token is missing; eos_token '<\|endoftext\|>' is neither .*"
        r"unk_token .*; the id -1 is not .*int32; several tokens share an id"
    )
    with pytest.raises(ValueError, match=expected):
        Vocabulary(ids, [], {"eos_token": eos, "unk_token": eos})


@pytest.mark.parametrize(("files", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files_are_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    folder = write_tiny_folder(tmp_path / "tiny")
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize("missing", [["vocab.json"], ["merges.txt"], ["vocab.json", "merges.txt"]])
def test_missing_files_are_named(tmp_path: Path, missing: list[str]) -> None:
    folder = write_tiny_folder(tmp_path / "tiny")
    for name in missing:
        (folder / name).unlink()
    with pytest.raises(ValueError, match=re.escape(f"{folder} lacks {' and '.join(missing)};")):
        Tokenizer.from_folder(folder)


def test_load_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (None, tmp_path / "empty", tmp_path / "absent"):
        assert load_tokenizer(folder).vocab_size == 49408
    assert load_tokenizer(write_tiny_folder(tmp_path / "tiny")).vocab_size == 10
    (tmp_path / "tiny" / "merges.txt").unlink()
    with pytest.raises(ValueError, match=r"lacks merges\.txt"):
        load_tokenizer(tmp_path / "tiny")
