"""FG-DM's depth factors: how near depth is to the truth that follows from the parent given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from benchmarks.scenes_quality.figures import SHOWN, Figure, Result
from benchmarks.scenes_quality.prior import as_picture
from benchmarks.scenes_quality.settings import NAMES_ALL, Settings
from benchmarks.scenes_quality.studio import SIZE, Studio
from configs.sample_fgdm import GRAPHS
from fgdm_jax.decode import depth_of
from fgdm_jax.graph import parse_graph
from input_pipeline.contact_sheet import Picture
from input_pipeline.images import to_uint8
from input_pipeline.scenes import Scenes
from input_pipeline.scenes.judge import Judge

PARENTS: Mapping[str, tuple[str, str]] = {
    "depth": ("segmentation", "chain"),
    "background_depth": ("foreground_depth", "layered"),
}
"""Of each depth that has a parent: that parent, and the graph that has both."""


def depths(studio: Studio | None, judge: Judge, settings: Settings) -> Result:
    """Returns the mean error of depth maps that are drawn from the true map of their parent.

    Args:
      studio: with the adapters; None for floors alone.
      judge: makes no difference here.
      settings: of the measurement.
    """
    del judge
    names = tuple(dict.fromkeys(item for name in PARENTS for item in (PARENTS[name][0], name)))
    world = Scenes(settings.world, (SIZE, SIZE), fields=("captions", *names))
    records = [world.arrays(index) for index in range(settings.scenes)]
    texts = [item["captions"][NAMES_ALL] for item in records]
    truth = {name: np.stack([as_picture(name, item[name]) for item in records]) for name in names}
    figures, rows = [], {}
    for name, (parent, graph) in PARENTS.items():
        right = truth[name]
        found = Figure(
            f"error_{name}",
            f"error of {name.replace('_', ' ')} drawn from the true {parent.replace('_', ' ')}",
            "% of the range",
            len(records),
            at_most=True,
            ceiling=0.0,
            floors={"true maps of other scenes": _error(np.roll(right, -1, 0), right)},
        )
        if studio is not None:
            (drawn,) = studio.maps(
                texts, name, 1, parse_graph(GRAPHS[graph]), {parent: truth[parent]}
            )
            again = studio.encode(right)
            found = dataclasses.replace(
                found, value=_error(drawn, right), through_autoencoder=_error(again, right)
            )
            rows[name] = [
                [
                    Picture(parent, to_uint8(truth[parent][i])),
                    Picture(f"{name}, error {_error(*pair):.1f} %", to_uint8(pair[0][0])),
                    Picture(f"true {name}: {texts[i]}", to_uint8(right[i])),
                ]
                for i in range(min(SHOWN, len(records)))
                for pair in [(drawn[i : i + 1], right[i : i + 1])]
            ]
        figures.append(found)
    return Result(figures, rows)


def _error(drawn: np.ndarray, right: np.ndarray) -> float:
    """Returns the mean absolute difference of depth, in percent of its range.

    Args:
      drawn: pictures of depth in [-1, 1], [n h w 3].
      right: the true ones.
    """
    difference = depth_of(jnp.asarray(drawn)) - depth_of(jnp.asarray(right))
    return round(100 * float(jnp.abs(difference).mean()), 2)
