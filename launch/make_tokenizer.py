"""A tokenizer of CLIP's kind for captions of a small world: the words that they use, and bytes.

python -m launch.make_tokenizer --data=scenes --output=runs/tokenizer
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from launch.command import command, run

_DATA = flags.DEFINE_string("data", "scenes", "Folder of shards with captions, or scenes.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to make.", required=True)
_EXAMPLES = flags.DEFINE_integer("examples", 5000, "Examples whose captions are read.", 1)
_MERGES = flags.DEFINE_integer("max_merges", 1024, "Most pairs of tokens that are joined.", 0)
_LENGTH = flags.DEFINE_integer("max_length", 77, "Longest prompt, in tokens.", 3)


def main() -> None:
    """Runs the command."""
    with command():
        if Path(_OUTPUT.value).exists():
            raise ValueError(f"{_OUTPUT.value}: is there already; name another folder")
        # Imported here, so that --help and a wrong flag answer at once.
        from input_pipeline.scenes import Scenes
        from input_pipeline.shards import ShardedRecords
        from input_pipeline.stream.config import MAP_WORDS
        from sd_jax.files.directory import complete_directory
        from sd_jax.new_vocabulary import learn_vocabulary
        from sd_jax.tokenizer import Tokenizer

        fields = ("captions",)
        is_scenes = _DATA.value == "scenes"
        source = Scenes(fields=fields) if is_scenes else ShardedRecords(_DATA.value, fields)
        count = min(_EXAMPLES.value, len(source))
        texts = [str(text) for index in range(count) for text in source[index]["captions"]]
        if not texts:
            raise ValueError(f"{_DATA.value}: has no captions in its first {count} records")
        # UNets see maps with these names; twice, as what is there once is spelled.
        vocabulary = learn_vocabulary(
            [*texts, *(2 * sorted(MAP_WORDS.values()))],
            max_merges=_MERGES.value,
            model_max_length=_LENGTH.value,
        )
        tokenizer = Tokenizer(vocabulary, _LENGTH.value)
        with complete_directory(_OUTPUT.value, overwrite=False) as folder:
            tokenizer.save(folder)
        longest = max(len(tokenizer.tokens(text)) for text in texts)
        print(
            f"wrote {Path(_OUTPUT.value)}: {tokenizer.vocab_size} tokens from {len(texts)} "
            f"captions, the longest of {longest} tokens",
            file=sys.stderr,
        )
        if longest > _LENGTH.value:
            print(f"warning: longer ones are cut at --max_length={_LENGTH.value}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
