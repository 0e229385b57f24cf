"""How much of a prompt a drawn segmentation shows, and which of several to keep.

Sampling-based prompt compliance (arXiv:2410.21638): draw N segmentations, which is cheap, keep the
one with the highest object recall, and draw the image once, from that one. Three pure steps, which
the caller composes:

    labels = labels_of(decoded, colours, void=void)             # draw, [n h w]
    recall = object_recall(labels, asked, colours=colours)      # score, [n]
    index = choose(recall, covered_area(labels, asked))         # keep

An object is a class, or several that all count as it: "a wall" is drawn by a wall of bricks
(`fgdm_jax.vocabulary.classes_of`), and classes of one colour cannot be told apart.

The paper says "object recall" and no more. Here an object is drawn if it covers at least 0.1 % of
the pixels (65 of 256 x 256, a square of 8, one cell of the latents) in parts at least 3 pixels
thick. Without the second rule borders count: between two colours a decoder draws mixtures, which
are near to those of other classes. On random maps of COCO's classes with borders blurred by one
pixel, 7 to 14 of the 183 classes were found that nobody had drawn; with it, none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fgdm_jax.palette import Colours, shared_colours
from sd_jax.typing import Array, Float, Int

Asked: TypeAlias = Sequence[int | Sequence[int]]
"""Objects, each a class or several of which any will do."""

MIN_SHARE = 0.001
"""Share of the pixels from which an object counts as drawn."""

THICKNESS = 3
"""Pixels; what is thinner is taken for a border."""

THRESHOLDS = (0.5, 0.75, 0.9)
"""Recalls from which the paper counts images."""


def object_shares(
    labels: Int[Array, "n h w"],
    asked: Asked,
    *,
    colours: Colours | None = None,
    thickness: int = THICKNESS,
) -> Float[Array, "n objects"]:
    """Returns the share of the pixels that each object covers, in [0, 1], without thin parts.

    Args:
      labels: classes, as they are decoded: a larger copy has thicker borders.
      asked: objects.
      colours: uint8 [n 3] of the classes; classes of one colour then count as each other.
      thickness: odd; parts that hold no square of this many pixels do not count. 1: all do.

    Raises:
      ValueError: lists what is wrong with `asked` and `thickness`.
    """
    masks = _masks(labels, asked, colours, thickness)
    if not masks:
        return jnp.zeros((labels.shape[0], 0))
    return jnp.stack([jnp.mean(mask, axis=(1, 2)) for mask in masks], axis=1)


def object_recall(
    labels: Int[Array, "n h w"],
    asked: Asked,
    *,
    min_share: float = MIN_SHARE,
    colours: Colours | None = None,
    thickness: int = THICKNESS,
) -> Float[Array, " n"]:
    """Returns the share of the asked objects that each map shows, in [0, 1].

    Who asks for nothing gets all of it: then the recall is 1.

    Args:
      labels: classes, as they are decoded.
      asked: objects.
      min_share: share of the pixels from which an object counts as drawn, above 0 and at most 1.
      colours: see `object_shares`.
      thickness: see `object_shares`.

    Raises:
      ValueError: an argument is out of its range.
    """
    shares = object_shares(labels, asked, colours=colours, thickness=thickness)
    return recall_of(shares, min_share)


def recall_of(
    shares: Float[Array, "n objects"], min_share: float = MIN_SHARE
) -> Float[Array, " n"]:
    """Returns `object_recall` of shares of the pixels that are known already.

    Args:
      shares: of `object_shares`.
      min_share: see `object_recall`.

    Raises:
      ValueError: min_share is out of its range.
    """
    if not 0 < min_share <= 1:
        raise ValueError(
            f"min_share is {min_share}, expected a share of the pixels, above 0 and at most 1, "
            f"such as {MIN_SHARE}"
        )
    if shares.shape[1] == 0:
        return jnp.ones(shares.shape[0])
    return jnp.mean((shares >= min_share).astype(jnp.float32), axis=1)


def covered_area(
    labels: Int[Array, "n h w"],
    asked: Asked,
    *,
    colours: Colours | None = None,
    thickness: int = THICKNESS,
) -> Float[Array, " n"]:
    """Returns the share of the pixels that belong to any asked object, each counted once.

    Args:
      labels: classes, as they are decoded.
      asked: objects.
      colours: see `object_shares`.
      thickness: see `object_shares`.
    """
    covered = jnp.zeros(labels.shape)
    for mask in _masks(labels, asked, colours, thickness):
        covered = jnp.maximum(covered, mask)
    return jnp.mean(covered, axis=(1, 2))


def choose(recall: Float[Array, " n"], area: Float[Array, " n"] | None = None) -> Int[Array, ""]:
    """Returns the index of the map to keep: of the highest recall, then area, then the first.

    Args:
      recall: of each map.
      area: of each map, such as `covered_area`; decides between equal recalls.
    """
    return rank(recall, area)[0]


def rank(recall: Float[Array, " n"], area: Float[Array, " n"] | None = None) -> Int[Array, " n"]:
    """Returns the indices of all maps, the best first, in the order of `choose`.

    Args:
      recall: of each map.
      area: of each map; decides between equal recalls, and of equal areas the first comes first.
    """
    area = jnp.zeros_like(recall) if area is None else area
    return jnp.lexsort((-area, -recall))


def _masks(
    labels: Array, asked: Asked, colours: Colours | None, thickness: int
) -> list[Float[Array, "n h w"]]:
    """Returns where each object is, 0 or 1."""
    groups = _groups(asked, colours, thickness)
    return [_opened(_is_any(labels, group).astype(jnp.float32), thickness) for group in groups]


def _is_any(labels: Array, group: tuple[int, ...]) -> Array:
    found = labels == group[0]
    for number in group[1:]:
        found |= labels == number
    return found


def _opened(masks: Float[Array, "n h w"], thickness: int) -> Float[Array, "n h w"]:
    """Returns what squares of `thickness` can cover (morphological opening), cut at the frame."""
    if thickness == 1:
        return masks
    window = (1, thickness, thickness)
    # What lies outside is taken for more of the same, so that the frame makes nothing thinner.
    eroded = jax.lax.reduce_window(masks, jnp.inf, jax.lax.min, window, (1, 1, 1), "SAME")
    return jax.lax.reduce_window(eroded, -jnp.inf, jax.lax.max, window, (1, 1, 1), "SAME")


def _groups(asked: Asked, colours: Colours | None, thickness: int) -> list[tuple[int, ...]]:
    """Returns the classes that count as each object, those of the same colours among them."""
    groups = [
        (int(item),) if isinstance(item, int | np.integer) else tuple(int(one) for one in item)
        for item in asked
    ]
    first = None if colours is None else shared_colours(colours)
    problems = [
        f"object {index} is {group}, expected one or more classes"
        + ("" if first is None else f", 0 to {len(first) - 1}")
        for index, group in enumerate(groups)
        if not group or min(group) < 0 or (first is not None and max(group) >= len(first))
    ]
    if thickness < 1 or thickness % 2 == 0:
        problems.append(f"thickness is {thickness}, expected an odd number of pixels, such as 3")
    if problems:
        raise ValueError("; ".join(problems))
    if first is None:
        return groups
    return [
        tuple(number for number in range(len(first)) if first[number] in {first[n] for n in group})
        for group in groups
    ]


@dataclasses.dataclass(frozen=True)
class RecallTable:
    """Object recall of N maps for each of many prompts, as the paper reports it.

    Attributes:
      prompts: how many.
      samples: N, maps of each prompt.
      minimum: of the N recalls, mean over the prompts; in [0, 1], and likewise
      median: the middle one,
      maximum: the best one, which is kept, and
      mean: their mean.
      counts: how many of the N have a recall of at least 0.5, 0.75 and 0.9; mean over the prompts.
    """

    prompts: int
    samples: int
    minimum: float
    median: float
    maximum: float
    mean: float
    counts: tuple[float, ...]

    def text(self) -> str:
        """Returns two aligned lines, names and numbers; recalls in percent."""
        names = ["prompts", "N", "min %", "median %", "max %", "mean %"]
        names += [f">= {threshold:g}" for threshold in THRESHOLDS]
        recalls = (self.minimum, self.median, self.maximum, self.mean)
        values = [str(self.prompts), str(self.samples)]
        values += [f"{100 * recall:.1f}" for recall in recalls]
        values += [f"{count:.1f}" for count in self.counts]
        widths = [max(len(name), len(value)) for name, value in zip(names, values, strict=True)]
        rows = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in (names, values)
        ]
        return "\n".join(rows)


def recall_table(recalls: Float[np.ndarray | Array, "prompts n"]) -> RecallTable:
    """Returns the paper's summary of the recalls of N maps for each prompt.

    Args:
      recalls: in [0, 1], a row for each prompt.

    Raises:
      ValueError: there are none, or they are no recalls.
    """
    values = np.asarray(recalls, np.float64)
    if values.ndim != 2 or values.size == 0 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"recalls have shape {values.shape} and range {_range(values)}, expected "
            "(prompts, N) with a row for each prompt, in 0 to 1"
        )
    # Recalls are float32: a hair, so that 9 objects of 10 are 0.9.
    counts = [float((values >= t - 1e-6).sum(axis=1).mean()) for t in THRESHOLDS]
    return RecallTable(
        prompts=values.shape[0],
        samples=values.shape[1],
        minimum=float(values.min(axis=1).mean()),
        median=float(np.median(values, axis=1).mean()),
        maximum=float(values.max(axis=1).mean()),
        mean=float(values.mean()),
        counts=tuple(counts),
    )


def _range(values: np.ndarray) -> str:
    return f"{values.min():g} to {values.max():g}" if values.size else "of nothing"
