"""Segmentations in colours: what is read back, and how the paper's rule differs."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgdm_jax.palette import colours_of, in_bytes, labels_of, shared_colours, upstream_labels_of
from input_pipeline.palettes import PALETTE_NAMES, palette

GOLDEN = Path(__file__).parents[1] / "goldens" / "fgdm" / "f_palette_decode.npz"
COCO = palette("coco").colours
VOID = 182


def as_image(rgb: np.ndarray) -> jax.Array:
    return jnp.asarray(rgb, jnp.float32)[None] / 127.5 - 1.0


def jittered(rng: np.random.Generator, amount: int) -> tuple[np.ndarray, jax.Array]:
    """Returns classes, and their colours with each channel off by up to `amount`."""
    labels = rng.integers(0, len(COCO), (64, 64))
    noise = rng.uniform(-amount, amount, (64, 64, 3)).round()
    return labels, as_image(np.clip(COCO[labels] + noise, 0, 255))


@pytest.mark.parity
@pytest.mark.parametrize(
    ("given", "expected"), [("rgb", "decoded"), ("rgb_random", "decoded_random")]
)
def test_upstream_rule_equals_the_golden(given, expected):
    golden = np.load(GOLDEN)
    found = upstream_labels_of(as_image(golden[given]), COCO, void=VOID)
    np.testing.assert_array_equal(found[0], golden[expected])


@pytest.mark.parametrize("name", PALETTE_NAMES)
def test_colours_are_read_back(name):
    colours = palette(name).colours
    labels = jnp.arange(len(colours)).reshape(1, 1, -1)
    first = jnp.asarray(shared_colours(colours)).reshape(labels.shape)
    found = labels_of(colours_of(labels, colours), colours, void=255)
    np.testing.assert_array_equal(found, first)
    assert found.dtype == jnp.int32


@pytest.mark.parametrize(
    ("amount", "ours", "upstream"), [(8, 1.0, 0.68), (16, 0.98, 0.55), (28, 0.51, 0.49)]
)
def test_recall_of_colours_that_are_off(rng, amount, ours, upstream):
    labels, image = jittered(rng, amount)
    nearest = labels_of(image, COCO, void=VOID)[0]
    last = upstream_labels_of(image, COCO, void=VOID)[0]
    assert np.mean(nearest == labels) == pytest.approx(ours, abs=0.02)
    assert np.mean(last == labels) == pytest.approx(upstream, abs=0.02)
    if amount == 8:
        np.testing.assert_array_equal(nearest, labels)


def test_both_rules_leave_the_same_pixels_void(rng):
    image = as_image(rng.integers(0, 256, (64, 64, 3)))
    void = labels_of(image, COCO, void=999) == 999
    assert 0.1 < np.mean(void) < 0.9
    np.testing.assert_array_equal(void, upstream_labels_of(image, COCO, void=999) == 999)


def test_equals_the_rule_written_with_all_distances(rng):
    rgb = rng.integers(0, 256, (32, 32, 3))
    gaps = rgb[..., None, :].astype(int) - COCO.astype(int)
    far = np.abs(gaps).max(-1) > 20
    distances = np.where(far, 10**9, (gaps**2).sum(-1))
    expected = np.where(far.all(-1), -1, distances.argmin(-1))
    np.testing.assert_array_equal(labels_of(as_image(rgb), COCO, void=-1, radius=20)[0], expected)


@pytest.mark.parametrize("rule", [labels_of, upstream_labels_of])
def test_the_margin_is_met_to_the_unit(rule):
    colours = np.array([[100, 100, 100]], np.uint8)
    rgb = np.array([[[128, 72, 100], [129, 100, 100], [100, 71, 100]]])
    np.testing.assert_array_equal(rule(as_image(rgb), colours, void=5)[0, 0], [0, 5, 5])
    np.testing.assert_array_equal(rule(as_image(rgb), colours, void=5, radius=29)[0, 0], [0, 0, 0])


def test_nearest_is_euclidean_and_only_among_candidates():
    # Of the two, the first is nearer by the largest channel and the second by Euclid.
    colours = np.array([[18, 18, 18], [20, 0, 0]], np.uint8)
    black = jnp.full((1, 1, 1, 3), -1.0)
    assert labels_of(black, colours, void=9).item() == 1
    assert labels_of(black, colours, void=9, radius=19).item() == 0, "the other is out of the box"


def test_what_lies_beyond_the_range_is_cut_off_and_nan_has_no_class():
    colours = np.array([[255, 255, 255], [0, 0, 0]], np.uint8)
    image = jnp.asarray([[[[1.7, 2.0, 1.0], [-9.0, -1.1, -1.0], [jnp.nan, 1.0, 1.0]]]])
    np.testing.assert_array_equal(labels_of(image, colours, void=7)[0, 0], [0, 1, 7])
    np.testing.assert_array_equal(upstream_labels_of(image, colours, void=7)[0, 0], [0, 1, 7])


def test_half_precision_reads_the_same_colours(rng):
    labels, image = jittered(rng, 6)
    np.testing.assert_array_equal(labels_of(image.astype(jnp.bfloat16), COCO, void=9)[0], labels)


def test_labels_that_are_no_class_get_the_void_colour():
    image = colours_of(
        jnp.asarray([[[-2, 255, 0]]]), np.array([[1, 2, 3]], np.uint8), void_colour=(9, 8, 7)
    )
    np.testing.assert_array_equal(in_bytes(image)[0, 0], [[9, 8, 7], [9, 8, 7], [1, 2, 3]])


def test_shared_colours():
    classes = palette("ade20k").classes
    first = shared_colours(palette("ade20k").colours)
    assert first[classes.index("skyscraper")] == classes.index("road")
    changed = [number for number, one in enumerate(first) if one != number]
    assert changed == [classes.index("skyscraper")]
    assert shared_colours(COCO) == tuple(range(183))


def test_memory_does_not_grow_with_the_classes():
    images = jax.ShapeDtypeStruct((2, 128, 128, 3), jnp.float32)

    def scratch(count: int) -> int:
        function = lambda x: labels_of(x, COCO[:count], void=VOID)
        return jax.jit(function).lower(images).compile().memory_analysis().temp_size_in_bytes

    assert scratch(183) < 1.2 * scratch(20)


@pytest.mark.parametrize(
    ("colours", "message"),
    [
        (np.zeros((3, 3)), "type float64 and shape"),
        (np.zeros((3, 4), np.uint8), r"shape \(3, 4\), expected uint8"),
        (np.zeros((0, 3), np.uint8), r"shape \(0, 3\)"),
    ],
)
def test_colours_that_are_none(colours, message):
    with pytest.raises(ValueError, match=message):
        labels_of(jnp.zeros((1, 2, 2, 3)), colours, void=0)
    with pytest.raises(ValueError, match=message):
        shared_colours(colours)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ValueError, match=r"type float64.*; radius is 256, expected 0 to 255"):
        upstream_labels_of(jnp.zeros((1, 2, 2, 3)), np.zeros((3, 3)), void=0, radius=256)
