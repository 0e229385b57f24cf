"""A vocabulary of CLIP's kind learned from texts, for small models of a small world.

CLIP's own has 49,408 tokens, more weights than all the rest of such a model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from sd_jax.clip_vocabulary import BOS, EOS, SPECIAL_TOKENS, WORD_END, Vocabulary
from sd_jax.tokenizer import split_like_clip

_NO_LIMIT = 10**6


def learn_vocabulary(
    texts: Iterable[str], *, max_merges: int = 1024, model_max_length: int = 77
) -> Vocabulary:
    """Returns a vocabulary with the words that `texts` use twice or more; others are spelled.

    Ids are numbered as CLIP's: bytes, bytes that end a word, merges, BOS and EOS.

    Args:
      texts: to learn from; the same texts make the same vocabulary.
      max_merges: of pairs of tokens; fewer if every word is whole before.
      model_max_length: positions of the text encoder, BOS and EOS included.
    """
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    backend = tokenizers.Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    split_like_clip(backend)
    trainer = trainers.BpeTrainer(
        vocab_size=_NO_LIMIT,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    content = json.loads(backend.to_str())["model"]["merges"]
    merges = [(left, right) for left, right in content][:max_merges]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    word_ends = [letter + WORD_END for letter in letters]
    # Two pairs may make one token; the first one's id is kept.
    made = dict.fromkeys(left + right for left, right in merges)
    tokens = dict.fromkeys([*letters, *word_ends, *made, BOS, EOS])
    ids = {token: index for index, token in enumerate(tokens)}
    special = {role: {"content": token, "special": True} for role, token in SPECIAL_TOKENS.items()}
    return Vocabulary(ids, merges, special, model_max_length=model_max_length)
