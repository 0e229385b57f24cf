"""Records into examples: decoding, one view, random choices; all of it a function of the row.

An example keeps pictures as small as they were stored (8 or 16 bit); `input_pipeline.stream.pack`
makes float32 batches of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import numpy as np

from input_pipeline.codecs import decode_field
from input_pipeline.schema import BY_NAME, PICTURE_KINDS, RecordError, RecordSource
from input_pipeline.stream.config import DROPPABLE, MAP_WORDS, StreamConfig
from input_pipeline.stream.derived import edges, exemplars
from input_pipeline.stream.helpers import Helpers
from input_pipeline.stream.plan import Row
from input_pipeline.stream.transforms import (
    PICTURES,
    View,
    centre_view,
    random_view,
    show,
    show_pose,
)

if TYPE_CHECKING:
    from jaxtyping import Float32

_LATENT_STRIDE = 8
# In this order for ever: a choice must not depend on which others a run makes.
_CHOICES = (
    *("scale", "down", "across", "flip", "caption"),
    *(f"drop {name}" for name in DROPPABLE),
    "map",
)


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleReader:
    """Reads examples of sources.

    Attributes:
      sources: of the run.
      config: of the run.
      helpers: of the run.
    """

    sources: Sequence[RecordSource]
    config: StreamConfig
    helpers: Helpers

    def read(self, row: Row) -> dict[str, Any]:
        """Returns the values of an example by name; None for pictures that are not there.

        Args:
          row: of the plan.

        Raises:
          RecordError: the record cannot be used.
        """
        config, source = self.config, self.sources[row.source]
        values = _Values(source, row.index)
        choices = make_choices(config.seed, row.position)
        dropped = {name for name, chance in config.drop.items() if choices[f"drop {name}"] < chance}
        shown = self._map(source, choices["map"], dropped)
        example = self._pictures(values, row, choices, dropped, shown)
        if "edge_maps" in config.keys:
            example |= edges(example, dropped)
        if "exemplar_images" in config.keys and self.helpers.exemplar_size is not None:
            example |= exemplars(example, self.helpers.exemplar_size, dropped)
        if "captions" in config.required_fields:
            example |= self._texts(values, choices["caption"], "caption" in dropped)
        if shown is not None and example[shown] is not None:
            example["image"] = example[shown]
            # A caption that was dropped stays empty.
            if example["caption"]:
                example["caption"] = f"{MAP_WORDS[shown]} {example['caption']}"
        for field in ("image_embedding", "background_embedding"):
            if field in config.required_fields:
                array = values.array(field)
                example[field] = np.zeros_like(array) if field in dropped else array
        for field in ("latent_mean", "latent_logvar"):
            if field in config.required_fields:
                example[field] = _latents(values, field, config.sizes[row.bucket])
        if "names" in config.keys:
            example["name"] = f"{source.name}/{values['id']}"
        return example

    def _pictures(
        self,
        values: _Values,
        row: Row,
        choices: Mapping[str, float],
        dropped: Set[str],
        shown: str | None,
    ) -> dict[str, Any]:
        """Returns what the example's view shows of all fields that the batch has pictures of."""
        config = self.config
        wanted = dict.fromkeys((*config.required_fields, *config.variables))
        wanted |= {} if shown is None else {shown: None}
        fields = tuple(
            field
            for field in wanted
            if field in values.source.fields and (field in PICTURES or field == "pose")
        )
        if not fields:
            return {}
        view = self._view(values.size(fields), row, choices)
        return {
            field: None if field in dropped else self._shown(values, field, view)
            for field in fields
        }

    def _map(self, source: RecordSource, choice: float, dropped: Set[str]) -> str | None:
        """Returns the map that takes the image's place; None if the image stays."""
        config = self.config
        if not choice < config.map_share:
            return None
        there = [name for name in config.maps if name in source.fields and name not in dropped]
        return there[int(choice / config.map_share * len(there))] if there else None

    def _texts(self, values: _Values, choice: float, is_dropped: bool) -> dict[str, Any]:
        """Returns the caption, and its embedding if the batch has those."""
        chosen = _chosen_caption(values, choice, self.config.caption)
        texts: dict[str, Any] = {"caption": "" if is_dropped else values["captions"][chosen]}
        if "text_embeddings" in self.config.keys:
            texts["text_embeddings"] = (
                self.helpers.empty_text_embedding if is_dropped else _text_embedding(values, chosen)
            )
        return texts

    def _view(self, source_size: tuple[int, int], row: Row, choices: Mapping[str, float]) -> View:
        config = self.config
        size = config.sizes[row.bucket]
        flip = choices["flip"] < config.flip
        if config.crop == "centre":
            return centre_view(source_size, size, flip)
        return random_view(
            source_size,
            size,
            scale=config.min_scale + (1 - config.min_scale) * choices["scale"],
            down=choices["down"],
            across=choices["across"],
            flip=flip,
        )

    def _shown(self, values: _Values, field: str, view: View) -> np.ndarray:
        """Returns what a view shows of a field: as stored, colours for classes, lines for poses."""
        value = values[field]
        try:
            if field == "pose":
                return self.helpers.draw_pose(show_pose(value, view), view.size)
            shown = show(field, value, view)
        except ValueError as error:
            raise values.error(str(error)) from error
        if field == "segmentation":
            colours = self.helpers.colours(values.source.palette, view.flip)
            return np.take(colours, shown, axis=0)
        return shown


class _Values:
    """The decoded values of one record, each decoded when it is first asked for."""

    def __init__(self, source: RecordSource, index: int):
        self.source = source
        self._index = index
        arrays = getattr(source, "arrays", None)
        self._stored: Mapping[str, Any] = source[index] if arrays is None else arrays(index)
        self._is_decoded = arrays is not None
        self._decoded: dict[str, Any] = {}

    def __getitem__(self, field: str) -> Any:
        if field not in self._decoded:
            if field not in self._stored:
                raise self.error(f"field {field!r} is missing")
            self._decoded[field] = self._decode(field)
        return self._decoded[field]

    def error(self, problem: str) -> RecordError:
        """Returns an error that names the record, as well as its source can.

        Args:
          problem: what is wrong.
        """
        describe = getattr(self.source, "describe", None)
        if describe is not None:
            return RecordError(f"{describe(self._index)}: {problem}")
        name = self._stored.get("id", "without id")
        return RecordError(f"{self.source.name}: record {self._index} ({name}): {problem}")

    def array(self, field: str) -> Float32[np.ndarray, "..."]:
        """Returns an array, in which every value is finite."""
        array = np.asarray(self[field], np.float32)
        if not np.isfinite(array).all():
            raise self.error(f"field {field!r} has values that are not finite")
        return array

    def size(self, pictures: tuple[str, ...]) -> tuple[int, int]:
        """Returns the height and width of the image, or else of the first picture there is."""
        if "height" in self._stored and "width" in self._stored:
            height, width = self["height"], self["width"]
        else:
            field = next((name for name in pictures if BY_NAME[name].kind in PICTURE_KINDS), None)
            if field is None:
                raise self.error("fields 'height' and 'width' are missing")
            height, width = self[field].shape[:2]
        if min(height, width) < 1:
            raise self.error(f"height is {height} and width {width}, expected at least 1")
        return height, width

    def _decode(self, field: str) -> Any:
        stored = self._stored[field]
        if self._is_decoded:
            return stored
        try:
            return decode_field(self.source.name, field, stored)
        except RecordError as error:
            raise self.error(f"field {field!r} {error.__cause__}") from error


def make_choices(seed: int, position: int) -> dict[str, float]:
    """Returns the random numbers in [0, 1) of an example, by what they decide.

    Args:
      seed: of the run.
      position: of the example in the run.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, position], np.uint64)))
    return dict(zip(_CHOICES, generator.random(len(_CHOICES)).tolist(), strict=True))


def _chosen_caption(values: _Values, choice: float, rule: str) -> int:
    """Returns the number of a caption that is not empty."""
    usable = [number for number, caption in enumerate(values["captions"]) if caption.strip()]
    if not usable:
        raise values.error("field 'captions' has no text that is not empty")
    return usable[int(choice * len(usable)) if rule == "random" else 0]


def _text_embedding(values: _Values, caption: int) -> Float32[np.ndarray, "tokens c"]:
    embeddings = values.array("text_embeddings")
    if len(embeddings) != len(values["captions"]):
        raise values.error(
            f"field 'text_embeddings' is of {len(embeddings)} captions, expected "
            f"the record's {len(values['captions'])}; prepare it again"
        )
    return embeddings[caption]


def _latents(values: _Values, field: str, size: tuple[int, int]) -> Float32[np.ndarray, "h w c"]:
    latents, expected = values.array(field), tuple(side // _LATENT_STRIDE for side in size)
    if latents.shape[:2] != expected:
        raise values.error(
            f"field {field!r} is of {latents.shape[:2]} places, expected "
            f"{expected} for {size[0]} x {size[1]} pixels; prepare latents at this size"
        )
    return latents
