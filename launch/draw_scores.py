"""Which draws show what was asked for: recall of each, the table, and the order of the best."""

from __future__ import annotations

import dataclasses

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
from fgdm_jax.palette import labels_of
from input_pipeline.schema import VOID
from launch.draw_request import DrawRequest


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


def score(request: DrawRequest, segmentations: np.ndarray | None) -> Scores:
    """Returns the scores of all draws.

    Args:
      request: for what was asked for.
      segmentations: pictures in [-1, 1], [draw h w 3], or None if none are drawn.
    """
    count = len(request.seeds)
    if segmentations is None or not request.scores:
        return Scores(request.objects, None, None, tuple(range(count)))
    colours = request.palette.colours
    labels = labels_of(jnp.asarray(segmentations), colours, void=VOID)
    shares = object_shares(labels, request.asked, colours=colours)
    recall = recall_of(shares)
    area = covered_area(labels, request.asked, colours=colours)
    order = tuple(int(draw) for draw in rank(recall, area))
    return Scores(request.objects, np.asarray(shares), np.asarray(recall), order)
