"""Maps from drawn pictures, their ranges, and pictures of maps."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from fgdm_jax.decode import decode_map, depth_of, edges_of, normals_of, picture_of
from fgdm_jax.graph import VARIABLES
from input_pipeline.palettes import palette

COLOURS = palette("scenes").colours
ARGUMENTS = {"segmentation": {"colours": COLOURS, "void": 255}}


def drawn(rng: np.random.Generator) -> jnp.ndarray:
    """Returns pictures whose values run beyond their range, as a decoder's do."""
    return jnp.asarray(rng.normal(0, 1, (2, 8, 12, 3)), jnp.float32)


@pytest.mark.parametrize("variable", VARIABLES)
def test_maps_have_their_range_and_pictures_are_bytes(rng, variable):
    arguments = ARGUMENTS.get(variable, {})
    found = np.asarray(decode_map(variable, drawn(rng), **arguments))
    colour = variable in ("normal", "pose", "image")
    assert found.shape == ((2, 8, 12, 3) if colour else (2, 8, 12))
    assert found.min() >= (-1 if colour else 0)
    assert found.max() <= (255 if variable == "segmentation" else 1)
    assert found.dtype == (np.int32 if variable == "segmentation" else np.float32)
    arguments = {"colours": COLOURS} if variable == "segmentation" else {}
    picture = picture_of(variable, jnp.asarray(found), **arguments)
    assert picture.shape == (2, 8, 12, 3)
    assert picture.dtype == jnp.uint8


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_picture_reads_as_its_map(rng, variable):
    maps = decode_map(variable, drawn(rng), **ARGUMENTS.get(variable, {}))
    arguments = {"colours": COLOURS} if variable == "segmentation" else {}
    if variable == "segmentation":
        maps = jnp.asarray(rng.integers(0, len(COLOURS), (2, 8, 12)), jnp.int32)
    picture = picture_of(variable, maps, **arguments)
    again = decode_map(
        variable, picture.astype(jnp.float32) / 127.5 - 1, **ARGUMENTS.get(variable, {})
    )
    # Bytes are 1/127.5 apart, of a range of 2; a normal is made longer again.
    np.testing.assert_allclose(again, maps, atol=0.009)
    if variable in ("segmentation", "canny"):
        np.testing.assert_array_equal(again, maps)


def test_depth_is_the_mean_of_the_channels():
    images = jnp.asarray([[[[-1.0, -1.0, -1.0], [0.2, 0.4, 0.6], [1, 1, 1], [2.0, 2.0, 2.0]]]])
    np.testing.assert_allclose(depth_of(images)[0, 0], [0.0, 0.7, 1.0, 1.0], atol=1e-6)
    np.testing.assert_array_equal(decode_map("background_depth", images), depth_of(images))


def test_normals_have_length_one_and_their_direction(rng):
    vectors = rng.normal(size=(1, 16, 16, 3))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    found = normals_of(jnp.asarray(0.7 * vectors, jnp.float32))
    np.testing.assert_allclose(found, vectors, atol=1e-6)


def test_what_has_no_direction_faces_the_viewer():
    grey = 128 / 127.5 - 1
    images = jnp.asarray([[[[0.0] * 3, [grey] * 3, [-grey] * 3, [jnp.nan] * 3, [0.1, 0.0, 0.0]]]])
    np.testing.assert_array_equal(normals_of(images)[0, 0], [[0, 0, 1]] * 4 + [[1, 0, 0]])


def test_edges_are_grey_or_binary():
    images = jnp.asarray([[[[-1.0] * 3, [-0.2] * 3, [0.0] * 3, [1.0] * 3]]])
    np.testing.assert_allclose(edges_of(images)[0, 0], [0, 0.4, 0.5, 1], atol=1e-6)
    np.testing.assert_array_equal(edges_of(images, threshold=0.5)[0, 0], [0, 0, 1, 1])
    np.testing.assert_array_equal(decode_map("canny", images)[0, 0], [0, 0, 1, 1])
    np.testing.assert_array_equal(decode_map("canny", images, threshold=0.3)[0, 0], [0, 1, 1, 1])
    np.testing.assert_allclose(decode_map("sketch", images)[0, 0], [0, 0.4, 0.5, 1], atol=1e-6)


def test_segmentations_without_a_class():
    labels = decode_map("segmentation", jnp.full((1, 1, 1, 3), 0.02), colours=COLOURS[:1], void=77)
    assert labels.item() == 77
    picture = picture_of("segmentation", labels, colours=COLOURS, void_colour=(3, 2, 1))
    assert picture[0, 0, 0].tolist() == [3, 2, 1]


@pytest.mark.parametrize(
    ("variable", "arguments", "message"),
    [
        ("depht", {}, "unknown variable 'depht'; did you mean 'depth'"),
        ("segmentation", {}, "needs colours.*; a segmentation needs void"),
        ("depth", {"colours": COLOURS}, "colours are of segmentations, and 'depth' has none"),
        ("image", {"threshold": 0.5}, "threshold is of .*, and 'image' has none; leave it out"),
        ("canny", {"threshold": 1.5}, "threshold is 1.5, expected 0 to 1"),
    ],
)
def test_arguments_that_do_not_fit(variable, arguments, message):
    with pytest.raises(ValueError, match=message):
        decode_map(variable, jnp.zeros((1, 2, 2, 3)), **arguments)


def test_pictures_that_cannot_be_made():
    with pytest.raises(ValueError, match="unknown variable 'labels'"):
        picture_of("labels", jnp.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match="needs colours"):
        picture_of("segmentation", jnp.zeros((1, 2, 2), jnp.int32))
