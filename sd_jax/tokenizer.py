"""CLIP's tokenizer: prompts to the `input_ids` that the text encoder reads, and back.

The byte-pair encoding is done by the `tokenizers` library. This file says how CLIP treats text and
what becomes of prompts longer than the text encoder; `sd_jax.clip_vocabulary` finds the vocabulary.
Ids equal those of transformers' CLIPTokenizer: NFC, lower case, any white space is one space, HTML
entities stay as they are.
"""

from __future__ import annotations

import json
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sd_jax.clip_vocabulary import (
    ADDED_TOKENS_FILE,
    CONFIG_FILE,
    DEFAULT_MAX_LENGTH,
    MERGES_FILE,
    SPECIAL_TOKENS,
    SPECIAL_TOKENS_FILE,
    TOKEN_FLAGS,
    TOKENIZER_FILE,
    VOCAB_FILE,
    WORD_END,
    Vocabulary,
    read_vocabulary,
    shipped_vocabulary,
)
from sd_jax.typing import Int

# CLIP's words: contractions, runs of letters, single digits, runs of anything else.
WORD = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
BYTE_LEVEL_SPACE = "Ġ"


class Tokenizer:
    """Encodes prompts as CLIP's `input_ids`: BOS, at most 75 tokens, EOS, padding.

    Special tokens written out in a prompt ("<|endoftext|>", and "!" where it pads) become their
    ids, as in transformers.

    Attributes:
      model_max_length: positions of the text encoder, BOS and EOS included.
      vocab_size: number of ids, those of special and added tokens included.
      bos_id: what every row and chunk begins with.
      eos_id: what follows a prompt.
      pad_id: what fills the row; equals `eos_id` in Stable Diffusion 1.x.
    """

    def __init__(self, vocabulary: Vocabulary, model_max_length: int = DEFAULT_MAX_LENGTH) -> None:
        """Builds the tokenizer of `vocabulary`.

        Args:
          vocabulary: tokens, merges, special and added tokens. Its own length is not used.
          model_max_length: 3 or more.
        """
        if model_max_length < 3:
            raise ValueError(f"model_max_length is {model_max_length}, expected 3 or more")
        roles = {role: token["content"] for role, token in vocabulary.special_tokens.items()}
        self._backend = _build_backend(vocabulary)
        self._special_tokens = roles
        self.model_max_length = model_max_length
        self.vocab_size: int = self._backend.get_vocab_size()
        self.bos_id: int = self._backend.token_to_id(roles["bos_token"])
        self.eos_id: int = self._backend.token_to_id(roles["eos_token"])
        self.pad_id: int = self._backend.token_to_id(roles["pad_token"])

    @classmethod
    def default(cls, model_max_length: int = DEFAULT_MAX_LENGTH) -> Tokenizer:
        """Returns the tokenizer of OpenAI's CLIP, which all of Stable Diffusion 1.x uses."""
        return cls(shipped_vocabulary(), model_max_length)

    @classmethod
    def from_folder(cls, path: str | Path, model_max_length: int | None = None) -> Tokenizer:
        """Returns the tokenizer of a diffusers `tokenizer/` folder.

        Args:
          path: the folder; `read_vocabulary` says which files it may hold.
          model_max_length: 3 or more; by default what the folder says, else 77.
        """
        vocabulary = read_vocabulary(Path(path))
        length = vocabulary.model_max_length if model_max_length is None else model_max_length
        try:
            return cls(vocabulary, length)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def __call__(
        self,
        prompts: Sequence[str],
        *,
        long_prompts: Literal["cut", "chunks"] = "cut",
        num_chunks: int | None = None,
        warn: bool = True,
    ) -> Int[np.ndarray, "batch length"]:
        """Returns int32 ids, one row per prompt.

        Args:
          prompts: any number of them; a prompt may be empty.
          long_prompts: "cut" drops what does not fit and warns with the text that was lost.
            "chunks" splits at word ends into pieces with BOS, EOS and padding each; the rows are
            as long as the most chunks in the batch need.
          num_chunks: 1 or more, the least number of chunks, with which prompt and negative prompt
            are made equally long. For "chunks" only.
          warn: whether to tell what "cut" drops; of training captions nobody wants to read it.
        """
        _check_call(prompts, long_prompts, num_chunks)
        encodings = [self._backend.encode(prompt, add_special_tokens=False) for prompt in prompts]
        if long_prompts == "cut":
            if warn:
                self._warn_of_cuts(prompts, encodings)
            rows = [[encoding.ids[: self._room]] for encoding in encodings]
        else:
            rows = [_split(encoding.ids, encoding.word_ids, self._room) for encoding in encodings]
        count = max([num_chunks or 1, *map(len, rows)])
        filled = [row + [[]] * (count - len(row)) for row in rows]
        ids = [[self._framed(chunk) for chunk in row] for row in filled]
        return np.array(ids, np.int32).reshape(len(prompts), count * self.model_max_length)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text of one row of ids, without BOS, EOS and padding.

        It is the text as the model reads it: lower case, CLIP's words set apart by spaces.
        """
        if np.ndim(ids) != 1:
            raise ValueError(
                f"decode takes one row of ids, got the shape {np.shape(ids)}; decode row by row"
            )
        numbers = [int(number) for number in ids]
        unknown = [number for number in numbers if not self._is_known(number)]
        if unknown:
            raise ValueError(
                f"ids not among the {self.vocab_size} of the vocabulary: {unknown[:10]}"
            )
        added = self._backend.get_added_tokens_decoder()
        pieces = []
        for number in self._without_frame(numbers):
            token = self._backend.id_to_token(number)
            if number in added:
                token = added[number].content + " "
            elif token.endswith(WORD_END):
                token = token.removesuffix(WORD_END) + BYTE_LEVEL_SPACE
            pieces.append(token)
        return self._backend.decoder.decode(pieces).strip()

    def tokens(self, text: str) -> list[str]:
        """Returns the part of `text` behind each id, with BOS first and EOS last.

        Entry i belongs to position i of `self([text])[0]` unless that was cut before; padding is
        left out. A character that takes several tokens stands at each of them.
        """
        _check_call([text], "cut", None)
        # Composed first: offsets would lose an accent that follows its letter.
        text = unicodedata.normalize("NFC", text)
        offsets = self._backend.encode(text, add_special_tokens=False).offsets
        parts = [text[start:end] for start, end in offsets]
        return [self._special_tokens["bos_token"], *parts, self._special_tokens["eos_token"]]

    def save(self, folder: str | Path) -> None:
        """Writes a diffusers `tokenizer/` folder, made if it is missing.

        `from_folder` and transformers' `CLIPTokenizer.from_pretrained` read it to the same ids.
        """
        folder = Path(folder)
        stale = [name for name in (TOKENIZER_FILE, ADDED_TOKENS_FILE) if (folder / name).exists()]
        if stale:
            raise ValueError(
                f"{folder} already holds {' and '.join(stale)}, which would be mixed with the "
                "files written here; remove it or save to another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._backend.model.save(str(folder))
        added = {
            str(index): {flag: getattr(token, flag) for flag in ("content", *TOKEN_FLAGS)}
            for index, token in self._backend.get_added_tokens_decoder().items()
        }
        config = {
            "added_tokens_decoder": added,
            **self._special_tokens,
            "do_lower_case": True,
            "model_max_length": self.model_max_length,
            "tokenizer_class": "CLIPTokenizer",
        }
        for name, data in ((CONFIG_FILE, config), (SPECIAL_TOKENS_FILE, self._special_tokens)):
            text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
            (folder / name).write_text(text, encoding="utf-8")

    @property
    def _room(self) -> int:
        """Tokens that fit between BOS and EOS."""
        return self.model_max_length - 2

    def _is_known(self, number: int) -> bool:
        return 0 <= number < 2**31 and self._backend.id_to_token(number) is not None

    def _framed(self, chunk: Sequence[int]) -> list[int]:
        padding = [self.pad_id] * (self._room - len(chunk))
        return [self.bos_id, *chunk, self.eos_id, *padding]

    def _without_frame(self, ids: Sequence[int]) -> list[int]:
        # A padding token that is also a word ("!") is one only where no EOS went before it.
        kept, padding = [], False
        for number in ids:
            if number in (self.bos_id, self.eos_id):
                padding = number == self.eos_id
            elif not (padding and number == self.pad_id):
                padding = False
                kept.append(number)
        return kept

    def _warn_of_cuts(self, prompts: Sequence[str], encodings: Sequence[Any]) -> None:
        for index, (prompt, encoding) in enumerate(zip(prompts, encodings, strict=True)):
            if len(encoding.ids) > self._room:
                lost = prompt[encoding.offsets[self._room][0] :].strip()
                warnings.warn(
                    f"prompt {index} has {len(encoding.ids)} tokens and the text encoder reads "
                    f'{self._room}; cut off: "{lost}". Shorten it or use long_prompts="chunks".',
                    stacklevel=3,
                )


def load_tokenizer(folder: Path | None) -> Tokenizer:
    """Returns the tokenizer of `folder` if it holds any vocabulary file, else CLIP's own."""
    names = (TOKENIZER_FILE, VOCAB_FILE, MERGES_FILE)
    if folder is not None and any((folder / name).exists() for name in names):
        return Tokenizer.from_folder(folder)
    return Tokenizer.default()


def _build_backend(vocabulary: Vocabulary) -> Any:
    """Returns a `tokenizers.Tokenizer` that treats text as CLIP does and adds no BOS or EOS."""
    import tokenizers
    from tokenizers import decoders, models

    try:
        model = models.BPE(
            vocab=dict(vocabulary.ids),
            merges=list(vocabulary.merges),
            end_of_word_suffix=WORD_END,
            unk_token=vocabulary.special_tokens["unk_token"]["content"],
        )
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(f"the merges do not fit the vocabulary: {error}") from error
    backend = tokenizers.Tokenizer(model)
    split_like_clip(backend)
    backend.decoder = decoders.ByteLevel()
    _add_tokens(backend, vocabulary)
    return backend


def split_like_clip(backend: Any) -> None:
    """Makes a `tokenizers.Tokenizer` clean texts and part them into words of bytes as CLIP does.

    Args:
      backend: is changed.
    """
    import tokenizers
    from tokenizers import normalizers, pre_tokenizers

    white_space = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), white_space, normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(tokenizers.Regex(WORD), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def _add_tokens(backend: Any, vocabulary: Vocabulary) -> None:
    from tokenizers import AddedToken

    # In the order of their ids: a token that the vocabulary lacks gets the next free one.
    added = dict(sorted(vocabulary.added_tokens.items()))
    contents = {entry["content"] for entry in added.values()}
    # Roles that share a token may differ in its flags; as in transformers, the last role wins.
    special = [vocabulary.special_tokens[role] for role in SPECIAL_TOKENS]
    special = [entry for entry in special if entry["content"] not in contents]
    backend.add_tokens([AddedToken(**entry) for entry in (*added.values(), *special)])
    problems = [
        f"{entry['content']!r} has the id {index}, the vocabulary makes it {got}"
        for index, entry in added.items()
        if (got := backend.token_to_id(entry["content"])) != index
    ]
    if problems:
        raise ValueError(f"added tokens do not continue the vocabulary: {'; '.join(problems)}")


def _split(ids: list[int], word_ids: list[int | None], room: int) -> list[list[int]]:
    """Returns chunks of at most `room` ids that end with a word; a longer word is broken up."""
    chunks, start = [], 0
    while len(ids) - start > room:
        full = start + room
        ends = (end for end in range(full, start, -1) if word_ids[end] != word_ids[end - 1])
        end = next(ends, full)
        chunks.append(ids[start:end])
        start = end
    return [*chunks, ids[start:]]


def _check_call(prompts: Sequence[str], long_prompts: str, num_chunks: int | None) -> None:
    """Raises ValueError naming all that is wrong with the arguments of a call."""
    if isinstance(prompts, str):
        raise ValueError(f"prompts is the string {prompts!r}, expected a list of prompts")
    problems = []
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            problems.append(f"prompt {index} is {prompt!r}, expected a string")
        elif any("\ud800" <= letter <= "\udfff" for letter in prompt):
            problems.append(f"prompt {index} is not Unicode text, it has a surrogate: {prompt!r}")
    if long_prompts not in ("cut", "chunks"):
        problems.append(f"long_prompts is {long_prompts!r}, expected 'cut' or 'chunks'")
    if num_chunks is not None and (long_prompts != "chunks" or num_chunks < 1):
        problems.append(f"num_chunks is {num_chunks}, expected 1 or more, and only with 'chunks'")
    if problems:
        raise ValueError("; ".join(problems))
