"""Where CLIP's vocabulary comes from: the merges shipped with the package, or a folder's files.

Only what the tokenizer must know is read: tokens, merges, special and added tokens. How text is
treated is CLIP's in every case (`sd_jax.tokenizer`), so a `tokenizer.json` that was saved with
truncation or padding switched on does no harm; transformers' CLIPTokenizer does the same.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
WORD_END = "</w>"
# Stable Diffusion 1.x pads with EOS; the folders of 2.x name "!" (id 0).
SPECIAL_TOKENS = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
TOKEN_FLAGS = ("lstrip", "normalized", "rstrip", "single_word", "special")
DEFAULT_MAX_LENGTH = 77
# transformers writes 1e30 for a tokenizer that was not told its length.
UNSET_MAX_LENGTH = 10**6

VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """All that tells one CLIP tokenizer from another; contradictions raise ValueError.

    Attributes:
      ids: token to id. Tokens are spelled in byte-level letters, `</w>` ends a word.
      merges: pairs of tokens; those merged first stand first.
      special_tokens: each role of `SPECIAL_TOKENS` to its token's settings, which are `content` and
        flags as `tokenizers.AddedToken` has them.
      added_tokens: id to settings, for tokens looked up whole, such as textual inversion's.
      model_max_length: positions of the text encoder, BOS and EOS included.
    """

    ids: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    special_tokens: Mapping[str, Mapping[str, Any]]
    added_tokens: Mapping[int, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    model_max_length: int = DEFAULT_MAX_LENGTH

    def __post_init__(self) -> None:
        added = {settings["content"] for settings in self.added_tokens.values()}
        problems = [
            f"{role} is missing" for role in SPECIAL_TOKENS if role not in self.special_tokens
        ]
        problems += [
            f"{role} {settings['content']!r} is neither in the vocabulary nor an added token"
            for role, settings in self.special_tokens.items()
            if settings["content"] not in self.ids and settings["content"] not in added
        ]
        wrong = [i for i in (*self.ids.values(), *self.added_tokens) if not 0 <= i < 2**31]
        problems += [f"the id {index} is not a non-negative int32" for index in wrong[:10]]
        if len(set(self.ids.values())) < len(self.ids):
            problems.append("several tokens share an id")
        if problems:
            raise ValueError(f"not a CLIP vocabulary: {'; '.join(problems)}")


def shipped_vocabulary() -> Vocabulary:
    """Returns the vocabulary of OpenAI's CLIP, which all of Stable Diffusion 1.x uses."""
    from tokenizers import pre_tokenizers

    packed = importlib.resources.files("sd_jax").joinpath("data", "clip_merges.txt.xz")
    lines = lzma.decompress(packed.read_bytes()).decode("utf-8").splitlines()
    merges = [(left, right) for left, right in (line.split(" ") for line in lines)]
    # CLIP numbers byte letters by code point, then the same at a word's end, then the merges.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    word_ends = [letter + WORD_END for letter in letters]
    tokens = [*letters, *word_ends, *(left + right for left, right in merges), BOS, EOS]
    ids = {token: index for index, token in enumerate(tokens)}
    special = {role: _settings(role, token) for role, token in SPECIAL_TOKENS.items()}
    return Vocabulary(ids, merges, special)


def read_vocabulary(folder: Path) -> Vocabulary:
    """Returns the vocabulary in a diffusers `tokenizer/` folder.

    Args:
      folder: has `tokenizer.json` (preferred, as by transformers), or `vocab.json` and
        `merges.txt`. `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`
        are read where they are present, and weighed against each other as transformers does.
    """
    if (folder / TOKENIZER_FILE).exists():
        ids, merges, beside = _read_tokenizer_json(folder / TOKENIZER_FILE)
    else:
        ids, merges = _read_vocab_and_merges(folder)
        beside = []
    config = _read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).exists() else {}
    try:
        if "added_tokens_decoder" not in config and (folder / SPECIAL_TOKENS_FILE).exists():
            config |= _read_json(folder / SPECIAL_TOKENS_FILE)
        special = {
            role: _settings(role, config.get(role) or default)
            for role, default in SPECIAL_TOKENS.items()
        }
        added = _added_tokens(folder, config, special, beside)
        return Vocabulary(ids, merges, special, added, _max_length(config))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _read_vocab_and_merges(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    missing = [name for name in (VOCAB_FILE, MERGES_FILE) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} lacks {' and '.join(missing)}; a tokenizer folder holds {VOCAB_FILE} and "
            f"{MERGES_FILE}, or {TOKENIZER_FILE}"
        )
    from tokenizers import models

    try:
        return models.BPE.read_file(str(folder / VOCAB_FILE), str(folder / MERGES_FILE))
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(f"{folder}: cannot read {VOCAB_FILE}, {MERGES_FILE}: {error}") from error


def _read_tokenizer_json(path: Path) -> tuple[dict[str, int], list[tuple[str, str]], list[Any]]:
    """Returns ids, merges and the added tokens that the file lists beside them."""
    data = _read_json(path)
    model = data.get("model")
    if not isinstance(model, dict) or model.get("end_of_word_suffix") != WORD_END:
        raise ValueError(f"{path}: 'model' is not CLIP's, a BPE with end_of_word_suffix {WORD_END}")
    ids, merges, added = model.get("vocab"), model.get("merges"), data.get("added_tokens", [])
    if not isinstance(ids, dict) or not all(type(index) is int for index in ids.values()):
        raise ValueError(f"{path}: 'model.vocab' must be an object of token: id")
    if not isinstance(merges, list) or not isinstance(added, list):
        raise ValueError(f"{path}: 'model.merges' and 'added_tokens' must be lists")
    # Older files join the pair with a space, newer ones have a list of two.
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list) or [type(token) for token in pair] != [str, str]:
            raise ValueError(f"{path}: 'model.merges' entry {index} is {pair!r}, expected 2 tokens")
    return ids, [(left, right) for left, right in pairs], added


def _added_tokens(
    folder: Path,
    config: Mapping[str, Any],
    special: Mapping[str, Mapping[str, Any]],
    beside: Sequence[Any],
) -> dict[int, dict[str, Any]]:
    """Returns id to settings: what the config says, else the older or the newer way to say it."""
    if "added_tokens_decoder" in config:
        entries = config["added_tokens_decoder"]
        if not isinstance(entries, dict):
            raise ValueError("'added_tokens_decoder' must be an object of id: settings")
        pairs = list(entries.items())
    else:
        roles = {settings["content"] for settings in special.values()}
        path = folder / ADDED_TOKENS_FILE
        pairs = [
            (index, {"content": content, "special": content in roles})
            for content, index in (_read_json(path) if path.exists() else {}).items()
        ]
        pairs += [(entry.get("id") if isinstance(entry, dict) else None, entry) for entry in beside]
    wrong = [f"{index!r}: {entry!r}" for index, entry in pairs if not str(index).isdecimal()]
    if wrong:
        raise ValueError(f"added tokens without an id: {', '.join(wrong[:10])}")
    return {int(index): _settings(f"added token {index}", entry) for index, entry in pairs}


def _settings(name: str, value: Any) -> dict[str, Any]:
    """Returns the settings of a token that is given by itself or as JSON has it."""
    entry = {"content": value, "special": True} if isinstance(value, str) else value
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
        raise ValueError(f"{name} is {value!r}, expected a string or an object with 'content'")
    flags = {flag: bool(entry[flag]) for flag in TOKEN_FLAGS if flag in entry}
    return {"content": entry["content"], **flags}


def _max_length(config: Mapping[str, Any]) -> int:
    length = config.get("model_max_length", DEFAULT_MAX_LENGTH)
    if not isinstance(length, int | float) or length < 1:
        raise ValueError(f"model_max_length is {length!r}, expected a positive number")
    return int(length) if length < UNSET_MAX_LENGTH else DEFAULT_MAX_LENGTH


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}, expected an object")
    return data
