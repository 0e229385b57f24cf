"""The pipeline: layers in, pictures out."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from cnc_jax.pipeline import ComposeAndConquer, Layer, clip_pixels
from cnc_jax.testing import random_model, tiny_config
from input_pipeline.images import clip_pixels as of_files
from sd_jax.tokenizer import Tokenizer

_SIZE = (64, 64)


@pytest.fixture(scope="module")
def pipeline():
    return ComposeAndConquer(random_model(tiny_config()), Tokenizer.default())


@pytest.fixture(scope="module")
def layers():
    rng = np.random.default_rng(0)
    depth = np.zeros((2, *_SIZE), np.float32)
    depth[0, 16:48, 16:48], depth[1] = 0.9, 0.3
    exemplars = rng.integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    mask = (depth[0] > 0).astype(np.float32)
    return [Layer(depth[0], exemplars[0], mask), Layer(depth[1], exemplars[1])]


def draw(pipeline, layers, **settings):
    settings = {"num_steps": 2, "guidance_scale": 3.0, **settings}
    return pipeline("a ball", layers, **settings)


def test_a_picture_is_a_function_of_its_seed_and_all_of_its_layers(pipeline, layers):
    both = draw(pipeline, layers, seeds=(3, 4))
    assert both.shape == (2, *_SIZE, 3)
    assert both.dtype == np.uint8
    again = draw(pipeline, layers, seeds=(4, 3))
    np.testing.assert_allclose(again[::-1].astype(int), both, atol=1)
    plain = draw(pipeline, [Layer(layers[0].depth), Layer(layers[1].depth)], seeds=(3, 4))
    assert np.abs(plain.astype(int) - both).max() > 3
    weaker = [Layer(item.depth, item.exemplar, item.mask, 1.0, 0.3) for item in layers]
    assert np.abs(draw(pipeline, weaker, seeds=(3, 4)).astype(int) - both).max() > 3


def test_depth_and_exemplars_may_have_guidance_of_their_own(pipeline, layers):
    # Scales of 1: the difference between two predictions is added to the first of them once.
    plain = draw(pipeline, layers, guidance_scale=1.0).astype(int)
    same = draw(pipeline, layers, guidance_scale=1.0, image_guidance_scale=1.0)
    np.testing.assert_allclose(same, plain, atol=1)
    more = draw(pipeline, layers, guidance_scale=1.0, image_guidance_scale=4.0)
    assert np.abs(more.astype(int) - plain).max() > 3


def test_a_layer_left_out_is_as_zero_strength(pipeline, layers):
    one = [layers[0], Layer(layers[1].depth)]
    zero = [layers[0], Layer(layers[1].depth, layers[1].exemplar, exemplar_strength=0.0)]
    kept = pipeline.condition(one, _SIZE).exemplar_embeddings
    assert not np.any(kept[0, 1])
    assert np.any(kept[0, 0])
    assert not np.array_equal(draw(pipeline, one), draw(pipeline, layers))
    assert draw(pipeline, zero).shape == draw(pipeline, one).shape


def test_text_alone_needs_a_size(pipeline):
    assert draw(pipeline, (), size=(64, 128)).shape == (1, 64, 128, 3)
    with pytest.raises(ValueError, match=r"size: no depth or mask tells it"):
        draw(pipeline, ())


def test_layers_that_contradict_each_other_are_told_at_once(pipeline, layers):
    wrong = [
        Layer(layers[0].depth, layers[0].exemplar / 255.0),
        Layer(np.zeros((64, 64, 3), np.float32), mask=np.zeros((32, 32), np.float32)),
    ]
    with pytest.raises(ValueError, match="expected uint8") as error:
        draw(pipeline, wrong)
    assert "layers[1].depth: shape (64, 64, 3), expected [h w]" in str(error.value)
    assert "size: (32, 32), (64, 64) are given" in str(error.value)


@pytest.mark.parametrize("shape", [(64, 64), (40, 60), (300, 200)])
def test_exemplars_are_seen_as_from_files(shape):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    picture = np.stack([rows % 256, columns % 256, (rows + columns) % 200], -1).astype(np.uint8)
    expected = of_files(picture, 64)
    # Pillow rounds and clips after each direction: a few steps of 1/255 in units of CLIP's.
    np.testing.assert_allclose(clip_pixels(picture, 64), expected, atol=3 / 255 / 0.26)


def test_half_precision_files_are_computed_with_in_the_type_asked_for():
    pipeline = ComposeAndConquer.load("scenes-prior")
    assert {leaf.dtype for leaf in jax.tree.leaves(pipeline.model.params)} == {np.dtype("float32")}
    assert pipeline("a ball", size=(64, 64), num_steps=1).shape == (1, 64, 64, 3)
