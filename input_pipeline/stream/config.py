"""Settings of the stream: what a batch holds and how records become examples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

from input_pipeline.stream.buckets import MULTIPLE

# Plain dictionaries, as a mapping proxy cannot be sent to a worker process.
KEY_FIELDS: Mapping[str, tuple[str, ...]] = {
    "image": ("image",),
    "depth_maps": ("foreground_depth", "background_depth"),
    "three_depth_maps": ("foreground_depth", "middle_depth", "far_depth"),
    "edge_maps": ("image", "mask", "background"),
    "masks": ("mask",),
    # Upstream's rule: the foreground's look is that of the whole source image.
    "exemplar_embeddings": ("image_embedding", "background_embedding"),
    "exemplar_images": ("image", "background"),
    "input_ids": ("captions",),
    "text_embeddings": ("captions", "text_embeddings"),
    "captions": ("captions",),
    "names": ("id",),
    "latent_mean": ("latent_mean",),
    "latent_logvar": ("latent_logvar",),
}
"""Fields that a record must have for a key of the batch."""

VARIABLES = (
    "segmentation",
    "depth",
    "normal",
    "sketch",
    "canny",
    "pose",
    "mask",
    "foreground_depth",
    "background_depth",
)
"""Keys that are pictures of a condition, each the field of its name; sources may lack them."""

MAP_WORDS: Mapping[str, str] = {
    **{name: f"{name} of" for name in VARIABLES},
    "normal": "normals of",
    "canny": "edges of",
    "foreground_depth": "foreground depth of",
    "background_depth": "background depth of",
}
"""What a caption begins with where a map takes the image's place (`StreamConfig.maps`)."""

TEXT_KEYS = ("captions", "names")
"""Keys whose value is a list of str, which no device takes."""

DROPPABLE = (
    "caption",
    "foreground_depth",
    "background_depth",
    "image_embedding",
    "background_embedding",
    *(name for name in VARIABLES if name not in ("foreground_depth", "background_depth", "mask")),
    "foreground_edges",
    "background_edges",
    "middle_depth",
    "far_depth",
)
"""What `StreamConfig.drop` may name.

Random numbers go by the order of choices: a new name must go behind "map" there
(`input_pipeline.stream.examples`). The mask is not in it: it says where, not what.
"""

CNC_DROP: Mapping[str, float] = dict.fromkeys(DROPPABLE[:5], 0.1)
"""Upstream's dropout for training Compose and Conquer."""


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """What a batch holds and how records become examples.

    Attributes:
      keys: of the batch: those of `KEY_FIELDS` and `VARIABLES`. With variables comes `present`,
        with exemplar_images `exemplars_present`.
      batch_size: examples of all processes in one step.
      seed: of the run, from 0 to 2**63 - 1.
      sizes: heights and widths that batches may have; a record goes to the one whose aspect ratio
        is nearest. `bucket_sizes` makes them.
      weights: shares of the sources, any scale; None for shares in proportion to their lengths.
      shuffle: whether every epoch of every source is shuffled.
      crop: "centre", the largest part that fits, or "random", a part anywhere in the image.
      min_scale: least side of a random crop, as a fraction of the largest that fits.
      flip: probability of a mirrored example, all its maps included.
      caption: "random", any of a record's captions, or "first".
      drop: probabilities with which a condition is replaced by nothing, each on its own: the text
        by the empty one, embeddings, exemplars and maps by zeros. Names are those of `DROPPABLE`.
      maps: variables that take the image's place in a part of the examples, each as often as the
        others that the record has, with `MAP_WORDS` before the caption: a text-to-image model then
        knows maps as well, as those of photographs on the web do.
      map_share: probability of that, 0 to 1.
      bad_records: "fail" at the first record that cannot be used, or "skip" it: another record of
        its source takes its place.
      max_bad_records: how many different records a process may skip before it fails.
    """

    keys: tuple[str, ...]
    batch_size: int
    seed: int = 0
    sizes: tuple[tuple[int, int], ...] = ((512, 512),)
    weights: tuple[float, ...] | None = None
    shuffle: bool = True
    crop: Literal["centre", "random"] = "centre"
    min_scale: float = 0.8
    flip: float = 0.0
    caption: Literal["random", "first"] = "random"
    drop: Mapping[str, float] = dataclasses.field(default_factory=dict)
    maps: tuple[str, ...] = ()
    map_share: float = 0.0
    bad_records: Literal["fail", "skip"] = "fail"
    max_bad_records: int = 100

    def __post_init__(self) -> None:
        """Takes lists and other mappings as configuration files have them."""
        for name in ("keys", "sizes", "weights", "maps"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        object.__setattr__(self, "sizes", tuple(tuple(size) for size in self.sizes))
        object.__setattr__(self, "drop", dict(self.drop))

    @property
    def variables(self) -> tuple[str, ...]:
        """The keys that are variables, in the order of the columns of `present`."""
        return tuple(key for key in self.keys if key in VARIABLES)

    @property
    def required_fields(self) -> tuple[str, ...]:
        """The fields without which a record cannot be used."""
        fields = (field for key in self.keys for field in KEY_FIELDS.get(key, ()))
        return tuple(dict.fromkeys(fields))

    @property
    def has_latents(self) -> bool:
        """Whether the batch holds cached latents, which can be neither cut nor mirrored."""
        return not {"latent_mean", "latent_logvar"}.isdisjoint(self.keys)

    def problems(self) -> list[str]:
        """Returns what is wrong with the settings, one text each."""
        return [*self._key_problems(), *self._size_problems(), *self._number_problems()]

    def _key_problems(self) -> list[str]:
        known = (*KEY_FIELDS, *VARIABLES)
        problems = [
            f"keys has {key!r}, expected some of {', '.join(known)}"
            for key in self.keys
            if key not in known
        ]
        if not self.keys or len(set(self.keys)) < len(self.keys):
            problems.append(f"keys is {self.keys}, expected at least one, each once")
        problems += [
            f"drop has {name!r}, expected some of {', '.join(DROPPABLE)}"
            + ("; the mask is never dropped" if name in ("mask", "masks") else "")
            for name in self.drop
            if name not in DROPPABLE
        ]
        problems += [
            f"drop of {name!r} is {value}, expected a probability"
            for name, value in self.drop.items()
            if not _is_between(value, 0, 1)
        ]
        problems += [
            f"maps has {name!r}, expected some of {', '.join(VARIABLES)}"
            for name in self.maps
            if name not in VARIABLES
        ]
        if not _is_between(self.map_share, 0, 1):
            problems.append(f"map_share is {self.map_share}, expected a probability")
        if self.map_share and self.maps and not {"image", "input_ids"} <= set(self.keys):
            problems.append(
                f"maps take the image's place, with their names before the caption, in "
                f"{self.map_share} of the examples, but the keys {', '.join(self.keys)} lack image "
                "or input_ids; what is cached cannot be replaced: set map_share=0"
            )
        if self.has_latents and (self.crop != "centre" or self.flip != 0):
            problems.append(
                f"keys has cached latents with crop {self.crop!r} and flip {self.flip}, but "
                "latents can be neither cut nor mirrored; set crop='centre' and flip=0, or "
                "use the key 'image' instead"
            )
        return problems

    def _size_problems(self) -> list[str]:
        problems = [
            f"sizes has {size}, expected (height, width), both positive multiples of {MULTIPLE}"
            for size in self.sizes
            if len(size) != 2 or any(n < MULTIPLE or n % MULTIPLE for n in size)
        ]
        if not self.sizes:
            problems.append("sizes is empty, expected at least one (height, width)")
        if not problems and len({h / w for h, w in self.sizes}) < len(self.sizes):
            problems.append(
                f"sizes is {self.sizes}, where two have the same aspect ratio, so that one of "
                "them would never be used; expected one of each"
            )
        return problems

    def _number_problems(self) -> list[str]:
        problems = []
        if self.batch_size < 1:
            problems.append(f"batch_size is {self.batch_size}, expected at least 1")
        if not 0 <= self.seed < 2**63:
            problems.append(f"seed is {self.seed}, expected 0 to 2**63 - 1")
        if not _is_between(self.flip, 0, 1):
            problems.append(f"flip is {self.flip}, expected a probability")
        if not (_is_between(self.min_scale, 0, 1) and self.min_scale > 0):
            problems.append(f"min_scale is {self.min_scale}, expected more than 0 and at most 1")
        if self.max_bad_records < 0:
            problems.append(f"max_bad_records is {self.max_bad_records}, expected at least 0")
        for name, allowed in (
            ("crop", ("centre", "random")),
            ("caption", ("random", "first")),
            ("bad_records", ("fail", "skip")),
        ):
            if getattr(self, name) not in allowed:
                problems.append(
                    f"{name} is {getattr(self, name)!r}, expected {' or '.join(allowed)}"
                )
        weights = self.weights or ()
        if any(not (math.isfinite(weight) and weight > 0) for weight in weights):
            problems.append(f"weights is {weights}, expected positive numbers")
        return problems


def _is_between(value: float, low: float, high: float) -> bool:
    return low <= value <= high
