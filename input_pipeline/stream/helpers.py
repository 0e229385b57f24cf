"""What the stream is given to do its work with: tokenizer, colours, drawing of poses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from input_pipeline import pose
from input_pipeline.palettes import colour_table, mirrored_classes, palette

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Int32, UInt8

    Tokenizer: TypeAlias = Callable[[list[str]], Int[np.ndarray, "texts tokens"]]
    DrawPose: TypeAlias = Callable[
        [Float[np.ndarray, "people 133 3"], tuple[int, int]], UInt8[np.ndarray, "h w 3"]
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class Helpers:
    """What the stream cannot know itself. Worker processes get copies, so all must be picklable.

    Attributes:
      tokenizer: texts -> token ids, one row each; for the key `input_ids`.
      empty_text_embedding: the text encoder's states of the empty text; for `text_embeddings`
        with dropped captions.
      palettes: colours of 256 classes by the name of the palette, beside those that
        `input_pipeline.palettes` has; for `segmentation`.
      draw_pose: people and (height, width) -> a picture; for `pose`.
      exemplar_size: height and width of CLIP's pictures, such as 224; for `exemplar_images`.
    """

    tokenizer: Tokenizer | None = None
    empty_text_embedding: Float[np.ndarray, "tokens c"] | None = None
    palettes: Mapping[str, UInt8[np.ndarray, "256 3"]] = dataclasses.field(default_factory=dict)
    draw_pose: DrawPose = pose.draw
    exemplar_size: int | None = None

    def token_ids(self, texts: list[str]) -> Int32[np.ndarray, "texts tokens"]:
        """Returns the token ids of texts.

        Args:
          texts: captions of a batch.
        """
        if self.tokenizer is None:
            raise ValueError("key 'input_ids' needs Helpers(tokenizer=...)")
        return np.asarray(self.tokenizer(texts), np.int32)

    def colours(self, name: str | None, flip: bool = False) -> UInt8[np.ndarray, "256 3"]:
        """Returns the colours of the classes of a palette.

        Args:
          name: of the palette, as sources tell it.
          flip: for a mirrored picture, in which left parts have become right ones.

        Raises:
          ValueError: it is not known.
        """
        own = self.palettes.get(name or "")
        if own is not None:
            return own
        known = palette(name or "")
        numbers = np.arange(256, dtype=np.uint8)
        return colour_table(known)[mirrored_classes(numbers, known) if flip else numbers]
