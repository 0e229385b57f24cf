from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from input_pipeline.edges import canny_edges
from input_pipeline.images import clip_pixels
from input_pipeline.scenes import Scenes
from input_pipeline.schema import RecordSource
from input_pipeline.stream import Helpers, StreamConfig, batches
from input_pipeline.stream.config import KEY_FIELDS, VARIABLES
from tests.input_pipeline.stream.fakes import (
    ALL_FIELDS,
    PALETTES,
    DecodedSource,
    decoded_record,
    draw_pose,
    tokenize,
)

HELPERS = Helpers(
    tokenizer=tokenize,
    palettes=PALETTES,
    draw_pose=draw_pose,
    empty_text_embedding=np.full((7, 8), 9, np.float32),
    exemplar_size=28,
)
SHAPES = {
    "image": (3, 64, 64, 3),
    "depth_maps": (3, 2, 64, 64, 3),
    "three_depth_maps": (3, 3, 64, 64, 3),
    "edge_maps": (3, 2, 64, 64, 3),
    "masks": (3, 2, 64, 64),
    "exemplar_embeddings": (3, 2, 8),
    "exemplar_images": (3, 2, 28, 28, 3),
    "exemplars_present": (3, 2),
    "input_ids": (3, 77),
    "text_embeddings": (3, 7, 8),
    "latent_mean": (3, 8, 8, 4),
    "latent_logvar": (3, 8, 8, 4),
    "present": (3, len(VARIABLES)),
    **dict.fromkeys(VARIABLES, (3, 64, 64, 3)),
}


class Painted(DecodedSource):
    """Records whose image, mask and background have nothing in common, at another size."""

    def arrays(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng(index)
        image, background = rng.integers(0, 256, (2, 5, 6, 3)).repeat(20, 1).repeat(20, 2)
        mask = np.zeros((100, 120), np.uint8)
        mask[30:70, 20:75] = 255
        pictures = {"image": image.astype(np.uint8), "background": background.astype(np.uint8)}
        return super().arrays(index) | pictures | {"mask": mask, "height": 100, "width": 120}


class Swapped(Painted):
    """The same records with image and background exchanged, to see how the background is cut."""

    def arrays(self, index: int) -> dict[str, Any]:
        record = super().arrays(index)
        return record | {"image": record["background"], "background": record["image"]}


def as_bytes(image: np.ndarray) -> np.ndarray:
    return np.rint((image + 1) * 127.5).astype(np.uint8)


def first_batch(*sources: RecordSource, **settings: Any) -> dict[str, Any]:
    arguments = {"batch_size": 3, "sizes": ((64, 64),), "shuffle": False} | settings
    with batches(
        sources or (DecodedSource(),),
        StreamConfig(**arguments),
        helpers=HELPERS,
        prefetch=0,
        num_threads=1,
    ) as stream:
        return next(stream)


@pytest.fixture(scope="module")
def batch() -> dict[str, Any]:
    return first_batch(keys=(*KEY_FIELDS, *VARIABLES), caption="first")


def test_every_key_has_its_shape_and_type(batch: dict[str, Any]) -> None:
    assert batch.keys() == {*SHAPES, "captions", "names"}
    for key, shape in SHAPES.items():
        assert batch[key].shape == shape, key
        assert batch[key].dtype == (np.int32 if key == "input_ids" else np.float32), key
        assert batch[key].flags.c_contiguous, key
        assert type(batch[key]) is np.ndarray


def test_values_are_those_of_the_records(batch: dict[str, Any]) -> None:
    for row in range(3):
        record = decoded_record(row, (64, 64))
        white = record["mask"] / np.float32(255)
        three = np.repeat(white[..., None], 3, axis=2)
        np.testing.assert_allclose(batch["image"][row], 2 * three - 1, atol=1e-6)
        np.testing.assert_allclose(batch["depth_maps"][row], [three, 1 - three], atol=1e-6)
        np.testing.assert_allclose(batch["masks"][row], [white, 1 - white], atol=1e-6)
        for name in set(VARIABLES) - {"pose", "background_depth"}:
            np.testing.assert_allclose(batch[name][row], 2 * three - 1, atol=1e-6)
        np.testing.assert_allclose(batch["background_depth"][row], 1 - 2 * three, atol=1e-6)
        assert np.argwhere(batch["pose"][row] > 0)[:, :2].tolist() == [[20, 10]] * 3
        assert batch["pose"][row].min() == -1
        embedding = record["image_embedding"]
        assert np.array_equal(batch["exemplar_embeddings"][row], [embedding, -embedding])
        assert (batch["latent_mean"][row] == row).all()
        assert (batch["latent_logvar"][row] == -row).all()
        assert batch["captions"][row] == f"{row}: first"
        assert batch["names"][row] == f"pattern/r{row}"
        assert np.array_equal(batch["input_ids"][row], tokenize([f"{row}: first"])[0])
    assert (batch["present"] == 1).all()
    assert (batch["exemplars_present"] == 1).all()


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_edges_are_those_of_the_pictures_that_the_view_shows(flip: float) -> None:
    keys, settings = ("image", "masks", "edge_maps"), {"crop": "random", "flip": flip, "seed": 1}
    batch = first_batch(Painted(), keys=keys, **settings)
    assert set(np.unique(batch["edge_maps"])) == {0, 1}
    for row in range(3):
        image, mask = as_bytes(batch["image"][row]), batch["masks"][row, 0, ..., None] > 0
        foreground, background = batch["edge_maps"][row]
        assert np.array_equal(foreground, canny_edges(np.where(mask, image, np.uint8(0))))
        # Not even the outline touches what is far from the mask.
        assert foreground.any()
        assert not foreground[:5].any()
        assert not np.array_equal(foreground, background)
    # The background is cut as the image is.
    swapped = first_batch(Swapped(), keys=keys, **settings)
    for row in range(3):
        edges = canny_edges(as_bytes(swapped["image"][row]))
        assert np.array_equal(batch["edge_maps"][row, 1], edges)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_exemplars_are_for_clip_what_the_view_shows(flip: float) -> None:
    keys, settings = ("image", "exemplar_images"), {"crop": "random", "flip": flip, "seed": 1}
    sizes = ((64, 128),)
    batch = first_batch(Painted(), keys=keys, sizes=sizes, **settings)
    swapped = first_batch(Swapped(), keys=keys, sizes=sizes, **settings)
    for row in range(3):
        for layer, shown in enumerate((batch, swapped)):
            expected = clip_pixels(as_bytes(shown["image"][row]), 28)
            assert np.array_equal(batch["exemplar_images"][row, layer], expected)
    assert (batch["exemplars_present"] == 1).all()


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("edge_maps", ("foreground_edges", "background_edges")),
        ("exemplar_images", ("image_embedding", "background_embedding")),
    ],
)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_of_edges_or_exemplars_can_be_dropped(
    key: str, names: tuple[str, str], layer: int
) -> None:
    keys = ("edge_maps", "exemplar_images")
    batch = first_batch(Painted(), keys=keys, drop={names[layer]: 1})
    for other in keys:
        expected = [other != key or number != layer for number in (0, 1)]
        assert batch[other].any(axis=(2, 3, 4)).tolist() == [expected] * 3
        if other == "exemplar_images":
            assert batch["exemplars_present"].tolist() == [expected] * 3


def test_scenes_have_edges_and_exemplars() -> None:
    fields = ("image", "mask", "background")
    keys = ("image", "masks", "edge_maps", "exemplar_images")
    batch = first_batch(Scenes(size=(64, 64), fields=fields), keys=keys)
    for row in range(3):
        image = as_bytes(batch["image"][row])
        foreground = image * (batch["masks"][row, 0, ..., None] > 0)
        assert np.array_equal(batch["edge_maps"][row, 0], canny_edges(foreground))
        assert np.array_equal(batch["exemplar_images"][row, 0], clip_pixels(image, 28))
    assert batch["edge_maps"].any(axis=(2, 3, 4)).all()


def test_dropped_conditions_are_zeros_and_empty_text() -> None:
    drop = {
        "caption": 1,
        "foreground_depth": 1,
        "background_embedding": 1,
        "normal": 1,
    }
    keys = (
        "depth_maps",
        "exemplar_embeddings",
        "captions",
        "text_embeddings",
        "input_ids",
        "foreground_depth",
        "normal",
        "canny",
    )
    batch = first_batch(keys=keys, drop=drop)
    assert not batch["depth_maps"][:, 0].any()
    assert batch["depth_maps"][:, 1].any()
    assert batch["exemplar_embeddings"][:, 0].all()
    assert not batch["exemplar_embeddings"][:, 1].any()
    assert batch["captions"] == ["", "", ""]
    assert (batch["text_embeddings"] == 9).all()
    assert not batch["input_ids"].any()
    assert batch["present"].tolist() == [[0, 0, 1]] * 3
    assert not batch["normal"].any()
    assert not batch["foreground_depth"].any()


def test_sources_that_lack_a_variable_give_zeros_and_say_so() -> None:
    some = tuple(name for name in ALL_FIELDS if name not in ("pose", "depth"))
    sources = DecodedSource("full"), DecodedSource("some", fields=some)
    batch = first_batch(*sources, keys=("depth", "canny", "pose", "names"), batch_size=8)
    lacks = np.array([name.startswith("some") for name in batch["names"]])
    assert lacks.sum() == 4
    assert batch["present"].tolist() == [[not lack, 1, not lack] for lack in lacks]
    for name in ("depth", "pose"):
        assert not batch[name][lacks].any()
        assert batch[name][~lacks].any(axis=(1, 2, 3)).all()
    assert batch["canny"].any(axis=(1, 2, 3)).all()


def test_arrays_of_different_models_are_refused() -> None:
    class Wide(DecodedSource):
        def arrays(self, index: int) -> dict[str, Any]:
            return super().arrays(index) | {"image_embedding": np.ones(9, np.float32)}

    with pytest.raises(ValueError, match=r"'image_embedding' has shapes \[\(8,\), \(9,\)\]"):
        first_batch(DecodedSource(), Wide(), keys=("exemplar_embeddings",), batch_size=8)
