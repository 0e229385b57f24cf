from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnc_jax import Condition
from cnc_jax.condition import (
    broadcast_layers,
    check_condition,
    concatenate_conditions,
    null_condition,
    progress_gate,
)

LATENTS = (2, 6, 8, 4)


@pytest.fixture
def check(small_model, small_inputs):
    """Returns a check of the small two-layer model's condition with some fields changed."""
    config, condition = small_model(2).config, small_inputs(2).condition

    def run(latents=LATENTS, **changes):
        check_condition(condition.replace(**changes), config, latents)

    return run


def test_what_fits(check, small_inputs):
    check()
    check(masks=small_inputs(2).condition.masks[:, :1])
    check(masks=jnp.zeros((2, 1, 17, 3)))
    check(depth_maps=None, exemplar_embeddings=None, masks=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents": (2, 5, 8, 4)}, "latents are 5 x 8, but both must be multiples of 2"),
        ({"latents": (2, 6, 8, 9)}, "latents have 9 channels, the UNet takes 4"),
        ({"depth_maps": jnp.zeros((2, 3, 48, 64, 3))}, "expected batch 2 and 2 layers"),
        ({"depth_maps": jnp.zeros((1, 2, 48, 64, 3))}, "expected batch 2 and 2 layers"),
        ({"depth_maps": jnp.zeros((2, 2, 64, 48, 3))}, "64 x 48, but latents of 6 x 8 are images"),
        ({"depth_maps": jnp.zeros((2, 2, 48, 64, 1))}, "1 channels, the local fuser takes 3"),
        ({"exemplar_embeddings": jnp.zeros((2, 1, 24))}, "expected batch 2 and 2 layers"),
        ({"exemplar_embeddings": jnp.zeros((2, 2, 7))}, "7 wide, the global fuser takes 24"),
        ({"masks": jnp.zeros((2, 3, 48, 64))}, r"expected \[2, 2 \(or 1\), height, width\]"),
        ({"masks": jnp.zeros((1, 1, 48, 64))}, r"expected \[2, 2 \(or 1\), height, width\]"),
        ({"residual_scales": jnp.ones(4)}, r"one number or 5, got shape \(4,\)"),
        ({"exemplar_strengths": (1.0, 1.0, 1.0)}, r"one number, \[2\] or \[2, 2\], got \(3,\)"),
        ({"depth_gains": jnp.ones((3, 2))}, r"depth_gains must be one number, \[2\] or \[2, 2\]"),
        ({"depth_interval": 0.5}, r"depth_interval must be \(start, end\)"),
        ({"exemplar_interval": (0.0, 0.5, 1.0)}, r"exemplar_interval must be \(start, end\)"),
    ],
)
def test_what_does_not_fit(check, changes, message):
    with pytest.raises(ValueError, match=message):
        check(**changes)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth_maps": jnp.zeros((2, 48, 64, 3))}, "depth_maps must have 5 axes"),
        ({"exemplar_embeddings": jnp.zeros((2, 24))}, "exemplar_embeddings must have 3 axes"),
        ({"masks": jnp.zeros((2, 48, 64))}, r"masks are \(2, 48, 64\), expected"),
    ],
)
def test_wrong_ranks_of_a_caller_without_checks(check, changes, message):
    with pytest.raises(ValueError, match=message):
        check(**changes)


def test_everything_that_does_not_fit_is_told_at_once(check):
    with pytest.raises(ValueError, match="does not fit") as error:
        check(
            latents=(2, 5, 8, 4),
            depth_maps=jnp.zeros((2, 3, 40, 40, 3)),
            exemplar_embeddings=jnp.zeros((2, 2, 7)),
            masks=jnp.zeros((2, 4, 8, 8)),
            exemplar_strengths=jnp.ones(5),
            residual_scales=jnp.ones(13),
            depth_interval=(0.0,),
        )
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == 8
    for word in ("latents are", "2 layers", "40 x 40", "7 wide", "masks"):
        assert sum(word in line for line in lines) == 1, word
    for word in ("exemplar_strengths", "residual_scales", "depth_interval"):
        assert sum(line.startswith(f"- {word}") for line in lines) == 1, word


@pytest.mark.parametrize("fuser", ["local", "global"])
def test_conditions_for_a_fuser_that_is_not_there(small_model, small_inputs, fuser):
    model = small_model(2)
    config = type(model.config)(**{**vars(model.config), f"{fuser}_fuser": None})
    with pytest.raises(ValueError, match=f"need a {fuser} fuser, which this checkpoint lacks"):
        check_condition(small_inputs(2).condition, config, LATENTS)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (0.5, [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]),
        ((1, 2), [[1, 2], [1, 2], [1, 2]]),
        (jnp.array([1.0, 2.0]), [[1, 2], [1, 2], [1, 2]]),
        ([[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 4], [5, 6]]),
    ],
)
def test_values_for_layers(values, expected):
    np.testing.assert_array_equal(broadcast_layers(values, 3, 2), expected)
    traced = jax.jit(lambda values: broadcast_layers(values, 3, 2))(values)
    np.testing.assert_array_equal(traced, expected)


def test_progress_runs_from_noise_to_image():
    timesteps = jnp.array([999, 750, 500, 250, 0])
    gates = {
        (0.0, 1.0): [1, 1, 1, 1, 1],
        (0.0, 0.5): [1, 1, 1, 0, 0],
        (0.25, 0.6): [0, 1, 1, 0, 0],
        (0.9, 1.0): [0, 0, 0, 0, 1],
    }
    for interval, expected in gates.items():
        np.testing.assert_array_equal(progress_gate(interval, timesteps, 1000), expected)
        traced = jax.jit(progress_gate, static_argnums=2)(interval, timesteps, 1000)
        np.testing.assert_array_equal(traced, expected)
    np.testing.assert_array_equal(progress_gate((0.0, 0.5), timesteps, 2000), [0, 0, 0, 0, 0])


def test_null_condition_is_what_training_drops_to(small_inputs):
    condition = small_inputs(2).condition.replace(exemplar_strengths=2.0, mask_rule="coverage")
    null = null_condition(condition)
    for name in ("depth_maps", "exemplar_embeddings"):
        assert getattr(null, name).shape == getattr(condition, name).shape
        assert not np.any(getattr(null, name))
    # Where the layers are seen stays as it is, and so do the settings.
    np.testing.assert_array_equal(null.masks, condition.masks)
    assert (null.exemplar_strengths, null.mask_rule) == (2.0, "coverage")
    assert null_condition(Condition()) == Condition()


def test_concatenated_conditions(small_inputs):
    first = small_inputs(2).condition.replace(
        exemplar_strengths=((1.0, 2.0), (3.0, 4.0)),
        depth_gains=jnp.array([0.5, 0.6]),
        residual_scales=0.7,
        depth_interval=(0.0, 0.5),
        mask_rule="coverage",
    )
    second = null_condition(first).replace(exemplar_strengths=jnp.full((2, 2), 9.0))
    for join in (concatenate_conditions, jax.jit(concatenate_conditions)):
        both = join(first, second)
        for name in ("depth_maps", "exemplar_embeddings", "masks"):
            halves = [getattr(condition, name) for condition in (first, second)]
            np.testing.assert_array_equal(getattr(both, name), jnp.concatenate(halves))
        np.testing.assert_array_equal(both.exemplar_strengths, [[1, 2], [3, 4], [9, 9], [9, 9]])
        # What is not for single images is shared.
        np.testing.assert_array_equal(both.depth_gains, first.depth_gains)
        assert both.residual_scales == pytest.approx(0.7)
        assert both.mask_rule == "coverage"
    assert concatenate_conditions(Condition(), Condition()) == Condition()
