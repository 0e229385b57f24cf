"""Which draws show what a prompt asks for: recall of each, its table, and the order of the best.

The objects are those that the prompt names, or the user; `fgdm_jax.compliance` has the rules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from fgdm_jax.compliance import (
    MIN_SHARE,
    RecallTable,
    covered_area,
    object_shares,
    rank,
    recall_of,
    recall_table,
)
from fgdm_jax.palette import Colours, labels_of
from fgdm_jax.vocabulary import COCO_NEVER_LABELLED, check_objects, classes_of, objects_in
from sd_jax.typing import Array, Float

VOID = 255
"""Label of pixels without a class, as the label maps of training data have it."""


@runtime_checkable
class Palette(Protocol):
    """The classes of segmentations, such as `input_pipeline.palettes.palette` returns them."""

    @property
    def name(self) -> str:
        """Of the label set."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by number."""
        ...

    @property
    def colours(self) -> Colours:
        """Of the classes, uint8 [n 3]."""
        ...

    @property
    def void_colour(self) -> tuple[int, int, int]:
        """Of pixels without a class."""
        ...


@dataclasses.dataclass(frozen=True)
class Scores:
    """Of all draws.

    Attributes:
      objects: names of what was asked for.
      shares: of the pixels, [draw object]; None if there is nothing to look for or to look in.
      recall: share of the objects that each draw shows, [draw]; likewise.
      order: numbers of the draws, the best first; as they came without a recall.
    """

    objects: tuple[str, ...]
    shares: np.ndarray | None
    recall: np.ndarray | None
    order: tuple[int, ...]

    def missing(self, draw: int) -> list[str] | None:
        """Returns the objects that a draw does not show; None if none were looked for.

        Args:
          draw: its number.
        """
        if self.shares is None:
            return None
        shares = self.shares[draw]
        return [name for name, share in zip(self.objects, shares, strict=True) if share < MIN_SHARE]

    def label(self, draw: int) -> str:
        """Returns what a draw shows, in a few words.

        Args:
          draw: its number.
        """
        if self.recall is None:
            return ""
        missing = self.missing(draw)
        lacks = f", without {', '.join(missing)}" if missing else ""
        return f"recall {100 * self.recall[draw]:.0f} %{lacks}"

    def table(self) -> RecallTable | None:
        """Returns the paper's table of this prompt, if there is a recall."""
        return None if self.recall is None else recall_table(self.recall[None])


def objects_of(prompt: str, palette: Palette, named: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the classes that the user, or else the prompt, asks for.

    Args:
      prompt: a caption.
      palette: of the segmentations in which they are looked for.
      named: by the user, in singular or plural; none leaves it to the prompt.

    Raises:
      ValueError: lists the names that no class is known for.
    """
    if named:
        return check_objects(named, palette.classes)
    leave_out = COCO_NEVER_LABELLED if palette.name == "coco" else ()
    return objects_in(prompt, palette.classes, leave_out=leave_out)


def score_draws(
    segmentations: Float[np.ndarray | Array, "n h w 3"], objects: Sequence[str], palette: Palette
) -> Scores:
    """Returns the scores of segmentations.

    Args:
      segmentations: pictures in [-1, 1], as they are decoded.
      objects: names of classes, at least one.
      palette: in whose colours they are drawn.
    """
    colours = palette.colours
    asked = [classes_of(name, palette.classes) for name in objects]
    labels = labels_of(jnp.asarray(segmentations), colours, void=VOID)
    shares = object_shares(labels, asked, colours=colours)
    recall = recall_of(shares)
    area = covered_area(labels, asked, colours=colours)
    order = tuple(int(draw) for draw in rank(recall, area))
    return Scores(tuple(objects), np.asarray(shares), np.asarray(recall), order)


def unscored(objects: Sequence[str], count: int) -> Scores:
    """Returns the scores of draws in which nothing can be looked for.

    Args:
      objects: names of what was asked for.
      count: of the draws.
    """
    return Scores(tuple(objects), None, None, tuple(range(count)))
