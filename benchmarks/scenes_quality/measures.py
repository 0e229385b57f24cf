"""The measures by name: what each needs, and which are left out."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.scenes_quality.depths import PARENTS, depths
from benchmarks.scenes_quality.figures import Figure, Result
from benchmarks.scenes_quality.following import MAPS, following
from benchmarks.scenes_quality.looks import looks
from benchmarks.scenes_quality.occlusion import LAYERS, occlusion
from benchmarks.scenes_quality.prior import autoencoder, captions
from benchmarks.scenes_quality.segmentation import segmentation
from benchmarks.scenes_quality.settings import Settings
from benchmarks.scenes_quality.studio import Studio
from input_pipeline.scenes.judge import Judge

_SD = ("unet", "vae", "text_encoder")


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measure.

    Attributes:
      group: for `--only`.
      needs: components of the model.
      take: does it.
      layers: of the fusers, by component, from which one is needed.
      parents: of an adapter, by component.
    """

    group: str
    needs: tuple[str, ...]
    take: Callable[[Studio | None, Judge, Settings], Result]
    layers: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    parents: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def problem(self, studio: Studio) -> str:
        """Returns what keeps a model from being measured; empty if nothing does.

        Args:
          studio: with the model.
        """
        missing = studio.lacks(*self.needs)
        if missing:
            return missing
        for component, numbers in self.layers.items():
            found = getattr(studio.model.config, component).num_layers
            if found not in numbers:
                expected = " or ".join(map(str, numbers))
                return f"the {component} has {found} layers, expected {expected}"
        for component, names in self.parents.items():
            config = studio.model.config
            seen = getattr(config, component).in_channels // config.unet.in_channels
            if seen != len(names):
                return f"the {component} has {seen} parents, expected {' and '.join(names)}"
        return ""


MEASURES = {
    "autoencoder": Measure("prior", ("vae",), autoencoder),
    "captions": Measure("prior", _SD, captions),
    "occlusion": Measure(
        "compose", (*_SD, "local_fuser"), occlusion, {"local_fuser": tuple(LAYERS)}
    ),
    "looks": Measure(
        "compose",
        (*_SD, "image_encoder", "local_fuser", "global_fuser"),
        looks,
        {"local_fuser": (2,), "global_fuser": (2,)},
    ),
    "segmentation": Measure("factors", (*_SD, "adapter_segmentation"), segmentation),
    "depths": Measure(
        "factors",
        (*_SD, *(f"adapter_{name}" for name in PARENTS)),
        depths,
        parents={f"adapter_{name}": (parent,) for name, (parent, _) in PARENTS.items()},
    ),
    "following": Measure(
        "factors", (*_SD, "adapter_image"), following, parents={"adapter_image": MAPS}
    ),
}
"""In the order in which they are taken."""

GROUPS = tuple(dict.fromkeys(measure.group for measure in MEASURES.values()))
"""Names for `--only`, beside those of the measures."""


@dataclasses.dataclass(frozen=True)
class Taken:
    """All that was measured.

    Attributes:
      results: by name of the measure.
      left_out: why others have no figures of the model.
      seconds: that each took, compiling included.
    """

    results: dict[str, Result]
    left_out: dict[str, str]
    seconds: dict[str, float]

    @property
    def figures(self) -> list[Figure]:
        """All figures, in order."""
        return [figure for result in self.results.values() for figure in result.figures]


def chosen(only: Sequence[str]) -> list[str]:
    """Returns the names of measures that names of measures and groups stand for.

    Args:
      only: such names; all measures if there are none.

    Raises:
      ValueError: a name is not known.
    """
    unknown = [name for name in only if name not in (*MEASURES, *GROUPS)]
    if unknown:
        known = ", ".join((*GROUPS, *MEASURES))
        raise ValueError(f"only: {', '.join(unknown)} is no measure; choose some of {known}")
    return [
        name
        for name, measure in MEASURES.items()
        if not only or name in only or measure.group in only
    ]


def take(names: Sequence[str], studio: Studio | None, judge: Judge, settings: Settings) -> Taken:
    """Returns what the measures find; ceilings and floors alone where the model lacks a part.

    Args:
      names: of measures.
      studio: with the model; None for ceilings and floors alone.
      judge: of scenes.
      settings: of the measurement.
    """
    taken = Taken({}, {}, {})
    for name in names:
        measure, start = MEASURES[name], time.perf_counter()
        problem = "no checkpoint is named" if studio is None else measure.problem(studio)
        if problem:
            taken.left_out[name] = problem
            print(f"{name}: without figures of a model, as {problem}", file=sys.stderr)
        taken.results[name] = measure.take(None if problem else studio, judge, settings)
        taken.seconds[name] = round(time.perf_counter() - start, 1)
        for figure in taken.results[name].figures:
            print(figure.text(), file=sys.stderr, flush=True)
    return taken
