from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnc_jax.soft_guidance import (
    _bicubic_matrix,
    check_masks,
    cross_attention_bias,
    layer_shares,
)
from sd_jax.testing import formula_uniform

LOWEST = float(jnp.finfo(jnp.float32).min)
RULES = ("upstream", "coverage", "soft_coverage")


def ellipse(size, scale=1.0):
    """Returns the ellipse of the goldens as a [size, size] mask."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    cx, cy, rx, ry = scale * np.array([197.3, 301.9, 133.7, 91.1])
    return ((((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2) <= 1).astype(np.float32)


def grey_rim():
    """Returns an ellipse of 320 pixels, enlarged to 512 by torch's linear interpolation."""
    y, x = np.mgrid[:320, :320].astype(np.float64)
    small = ((x - 123.3) / 83.6) ** 2 + ((y - 188.7) / 56.9) ** 2 <= 1
    centres = np.clip((np.arange(512) + 0.5) * 320 / 512 - 0.5, 0, None)
    first = centres.astype(int)
    matrix = np.zeros((512, 320))
    np.add.at(matrix, (np.arange(512), first), 1 - centres + first)
    np.add.at(matrix, (np.arange(512), np.minimum(first + 1, 319)), centres - first)
    return (matrix @ small @ matrix.T).astype(np.float32)


MASKS = {
    "ellipse": ellipse(512),
    "soft": grey_rim(),
    "noise_mask": (formula_uniform("input.noise_mask", (1, 1, 512, 512))[0, 0] < 0.05).astype(
        np.float32
    ),
    **{f"ellipse{size}": ellipse(size, size / 512) for size in (768, 640, 128)},
}


def shares(masks, size, rule):
    """Returns the shares of one image; masks are [masks, height, width]."""
    return np.asarray(layer_shares(jnp.asarray(masks, jnp.float32)[None], size, rule))[0]


@pytest.mark.parity
@pytest.mark.parametrize("name", sorted(MASKS))
def test_upstream_rule_equals_the_original(golden, name):
    goldens = golden("mask_resize")
    sizes = [int(key.split(".")[2]) for key in goldens if key.startswith(f"{name}.bool.")]
    assert len(sizes) >= 4
    for size in sizes:
        foreground, ground = shares(MASKS[name][None], (size, size), "upstream")
        np.testing.assert_array_equal(foreground, goldens[f"{name}.bool.{size}"])
        np.testing.assert_array_equal(ground, 1 - foreground)


@pytest.mark.parity
def test_bicubic_values_equal_the_original(golden):
    goldens = golden("mask_resize")
    np.testing.assert_allclose(
        MASKS["soft"][302], goldens["soft_mask_values_at_row_302"], atol=1e-6
    )
    matrix = _bicubic_matrix(64, 512)
    values = matrix @ MASKS["ellipse"] @ matrix.T
    np.testing.assert_allclose(values, goldens["ellipse.bicubic_values.64"], atol=1e-6)


def test_upstream_rule_looks_at_the_centre_of_each_block():
    mask = (formula_uniform("sparse", (64, 96)) < 0.02).astype(np.float32)
    ours = shares(mask[None], (4, 6), "upstream")[0]
    blocks = mask.reshape(4, 16, 6, 16)
    expected = blocks[:, 6:10, :, 6:10].any(axis=(1, 3))
    np.testing.assert_array_equal(ours, expected)
    assert 0 < expected.mean() < 1
    assert (blocks.any(axis=(1, 3)) != expected).any(), "objects between the taps vanish"


def overlapping():
    """Returns two masks of 8 x 12: the left half, and the middle third, which it partly hides."""
    masks = np.zeros((2, 8, 12), np.float32)
    masks[0, :, :6] = 1
    masks[1, :, 4:8] = 1
    return masks


@pytest.mark.parametrize("rule", RULES)
def test_earlier_layers_hide_later_ones(rule):
    ours = shares(overlapping(), (8, 12), rule)
    expected = np.zeros((3, 8, 12))
    expected[0, :, :6], expected[1, :, 6:8], expected[2, :, 8:] = 1, 1, 1
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    other = shares(overlapping()[::-1], (8, 12), rule)
    expected[:] = 0
    expected[0, :, 4:8], expected[1, :, :4], expected[2, :, 8:] = 1, 1, 1
    np.testing.assert_allclose(other, expected, atol=1e-6)


def test_what_is_hidden_has_no_share_of_a_cell():
    # Both cover the same half of the only cell, so the second is not seen at all.
    masks = np.zeros((2, 4, 4), np.float32)
    masks[:, :2] = 1
    np.testing.assert_allclose(shares(masks, (1, 1), "soft_coverage")[:, 0, 0], [0.5, 0.0, 0.5])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [(16, 24), (4, 6), (5, 7), (1, 1), (3, 11), (32, 48)])
def test_shares_of_any_size_sum_to_one(rule, size):
    masks = formula_uniform("masks", (3, 16, 24))
    masks = (masks < 0.4).astype(np.float32) if rule == "upstream" else masks
    ours = shares(masks, size, rule)
    assert ours.shape == (4, *size)
    np.testing.assert_allclose(ours.sum(axis=0), 1.0, atol=1e-5)
    assert (ours >= 0).all()
    if rule != "soft_coverage":
        assert set(np.unique(ours)) <= {0.0, 1.0}


def test_coverage_is_the_share_of_the_area():
    mask = np.zeros((1, 4, 4), np.float32)
    mask[0, 0, 0], mask[0, :2, 2:] = 1, 1
    soft = shares(mask, (2, 2), "soft_coverage")
    np.testing.assert_allclose(soft[0], [[0.25, 1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(shares(mask, (2, 2), "coverage")[0], [[0, 1], [0, 0]])
    # Cells that share a pixel share it by its area: of 3 columns, each of 2 cells gets 1.5.
    mask = np.zeros((1, 1, 3), np.float32)
    mask[0, 0, 1] = 1
    np.testing.assert_allclose(
        shares(mask, (1, 2), "soft_coverage")[0], [[1 / 3, 1 / 3]], atol=1e-6
    )


def test_a_tie_goes_to_the_front():
    masks = np.zeros((2, 2, 8), np.float32)
    masks[0, 0, :4] = 1  # the upper half of the left cell, the rest is ground
    masks[1, 0, 4:] = 1
    winners = shares(masks, (1, 2), "coverage").argmax(axis=0)
    np.testing.assert_array_equal(winners, [[0, 1]])


def test_greys_are_partly_transparent():
    masks = np.stack([np.full((2, 2), 0.25), np.full((2, 2), 0.5)])
    np.testing.assert_allclose(
        shares(masks, (1, 1), "soft_coverage")[:, 0, 0], [0.25, 0.375, 0.375], atol=1e-6
    )


@pytest.mark.parametrize("rule", RULES)
def test_empty_and_full_masks(rule):
    empty, full = np.zeros((1, 12, 20)), np.ones((1, 12, 20))
    for size in ((3, 5), (5, 3)):
        foreground, ground = shares(empty, size, rule)
        np.testing.assert_array_equal(foreground, 0)
        np.testing.assert_allclose(ground, 1, atol=1e-6)
        foreground, ground = shares(full, size, rule)
        np.testing.assert_allclose(foreground, 1, atol=1e-6)
        np.testing.assert_array_equal(ground, 0)


@pytest.mark.parametrize("rule", RULES)
def test_the_ground_alone(rule):
    np.testing.assert_array_equal(shares(np.zeros((0, 8, 8)), (2, 2), rule), np.ones((1, 2, 2)))


@pytest.mark.parametrize("rule", RULES)
def test_bias_hides_the_tokens_of_the_other_layers(rule):
    masks = jnp.asarray(overlapping())[None]
    sizes = ((8, 12), (2, 3))
    biases = cross_attention_bias(masks, sizes, 5, 2, rule)
    for bias, size in zip(biases, sizes, strict=True):
        assert bias.shape == (1, 1, size[0] * size[1], 5 + 3 * 2)
        assert not np.any(bias[..., :5]), "text is seen from everywhere"
        seen = np.asarray(layer_shares(masks, size, rule))[0].reshape(3, -1)
        for layer in range(3):
            for token in range(2):
                column = np.asarray(bias)[0, 0, :, 5 + 2 * layer + token]
                np.testing.assert_array_equal(column[seen[layer] == 0], LOWEST)
                visible = seen[layer] > 0
                np.testing.assert_allclose(column[visible], np.log(seen[layer][visible]), atol=1e-6)


def test_soft_bias_is_the_hard_one_where_a_layer_covers_everything():
    # The masks' borders are borders of cells too.
    masks = jnp.asarray(np.kron(overlapping(), np.ones((1, 4, 4), np.float32)))[None]
    hard = cross_attention_bias(masks, ((8, 12),), 3, 2, "coverage")
    soft = cross_attention_bias(masks, ((8, 12),), 3, 2, "soft_coverage")
    np.testing.assert_array_equal(hard, soft)


def test_soft_bias_weighs_the_tokens_by_the_share():
    mask = jnp.zeros((1, 1, 4, 4)).at[:, :, 0].set(1.0)
    (bias,) = cross_attention_bias(mask, ((1, 1),), 1, 1, "soft_coverage")
    weights = jax.nn.softmax(bias[0, 0, 0])
    np.testing.assert_allclose(weights, [0.5, 0.125, 0.375], atol=1e-6)


def test_each_image_has_its_own_mask():
    masks = jnp.stack([jnp.zeros((1, 8, 8)), jnp.ones((1, 8, 8))])
    (bias,) = cross_attention_bias(masks, ((2, 2),), 1, 1)
    np.testing.assert_array_equal(bias[0, 0, 0], [0, LOWEST, 0])
    np.testing.assert_array_equal(bias[1, 0, 0], [0, 0, LOWEST])


def test_unknown_rule_of_a_caller_without_checks(unchecked):
    with pytest.raises(ValueError, match="'hard'; choose one of upstream, coverage, soft_coverage"):
        layer_shares(jnp.zeros((1, 1, 4, 4)), (2, 2), "hard")


def test_masks_that_are_probably_not_meant():
    masks = np.stack([np.zeros((4, 4)), np.ones((4, 4)), np.eye(4)])
    empty, full = check_masks(masks)
    assert empty.startswith("mask 0 is empty")
    assert full.startswith("mask 1 covers the whole image")
    assert check_masks(np.eye(4, dtype=bool)[None]) == []
