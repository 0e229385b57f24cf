"""Attention distillation on captured queries and keys of a formula, and on a small model."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgdm_jax import distill, predict_with_attention
from fgdm_jax.distill import attention_maps, choose_layers, distillation_loss
from sd_jax.network_settings import NetworkSettings
from sd_jax.testing import formula_normal, quick_jit, relative_rms

SIZE = (4, 6)
LAYERS = {"down_blocks_0": (4, 6), "down_blocks_1": (2, 3), "up_blocks_0": (4, 6)}
HEADS, WIDTH, TEXT, BATCH = 2, 3, 5, 2


def capture(seed, layers=LAYERS, scale=1.0, heads=HEADS):
    """Returns queries and keys of a self-attention and a cross-attention of each layer."""

    def tokens(name, number):
        return scale * jnp.asarray(formula_normal(f"{seed}/{name}", (BATCH, number, heads, WIDTH)))

    captured = {}
    for name, grid in layers.items():
        number = math.prod(grid)
        for ending, keys in (("attn1", number), ("attn2", TEXT)):
            path = f"{name}/{ending}"
            captured[path] = (tokens(f"{path}/query", number), tokens(f"{path}/key", keys))
    return captured


@pytest.fixture(scope="module")
def student():
    return capture("student")


@pytest.fixture(scope="module")
def teacher():
    return capture("teacher")


maps_of = quick_jit(attention_maps, static_argnames=("size", "kind"))
loss_of = quick_jit(distillation_loss, static_argnames=("size", "layers", "normalisation"))


def total_of(student, teacher):
    """Returns one number of everything."""
    return jnp.sum(jnp.stack(distillation_loss(student, teacher, SIZE)))


gradients_of = quick_jit(jax.value_and_grad(total_of, argnums=(0, 1)))


def interpolation(small, large):
    """Returns [large small]: bilinear weights of one axis, pixel centres at half integers."""
    matrix = np.zeros((large, small))
    for index in range(large):
        centre = min(max((index + 0.5) * small / large - 0.5, 0.0), small - 1.0)
        below = int(centre)
        matrix[index, below] += 1.0 - (centre - below)
        if centre > below:
            matrix[index, below + 1] += centre - below
    return matrix


def plain_maps(captured, kind, size=SIZE, layers=LAYERS):
    """Returns the maps, layer by layer, with nothing shared and nothing fused."""
    total = jnp.zeros(())
    for name, grid in layers.items():
        query, key = captured[f"{name}/{'attn1' if kind == 'self' else 'attn2'}"]
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) / WIDTH**0.5
        weights = jnp.exp(logits) / jnp.sum(jnp.exp(logits), axis=-1, keepdims=True)
        scale = np.kron(*(interpolation(*pair) for pair in zip(grid, size, strict=True)))
        maps = jnp.einsum("Qq,bqk->bQk", jnp.asarray(scale, weights.dtype), weights.mean(axis=1))
        if kind == "self":
            maps = jnp.einsum("bqk,Kk->bqK", maps, jnp.asarray(scale, maps.dtype))
            maps = maps * (math.prod(grid) / math.prod(size))
        total = total + maps
    return total


def plain_loss(student, teacher, kind, normalisation):
    """Returns eq. 7 as it is printed, or the mean over rows of distributions."""
    ours, theirs = plain_maps(student, kind), plain_maps(teacher, kind)
    if normalisation == "row_mean":
        ours, theirs = ours / len(LAYERS), theirs / len(LAYERS)
    sums = jnp.sum(theirs * (jnp.log(theirs) - jnp.log(ours)), axis=(1, 2))
    return sums / math.prod(SIZE) if normalisation == "row_mean" else sums


def test_interpolation_of_two_pixels():
    expected = [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    np.testing.assert_allclose(interpolation(2, 4), expected)


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_maps_are_those_of_the_plain_computation(student, kind):
    maps = maps_of(student, SIZE, kind)
    np.testing.assert_allclose(maps, plain_maps(student, kind), rtol=1e-5)


@pytest.mark.parametrize("kind", ["self", "cross"])
@pytest.mark.parametrize("size", [(4, 6), (6, 4), (8, 12), (2, 12), (12, 18)])
def test_rows_sum_to_the_number_of_layers(kind, size):
    height, width = size
    layers = {
        f"level_{factor}": (height // factor, width // factor)
        for factor in (1, 2, 3)
        if height % factor == 0 and width % factor == 0
    }
    captured = capture("rows", layers)
    maps = maps_of(captured, size, kind)
    number = height * width
    assert maps.shape == (BATCH, number, number if kind == "self" else TEXT)
    assert maps.min() > 0.0
    np.testing.assert_allclose(jnp.sum(maps, axis=2), len(layers), rtol=1e-6)
    np.testing.assert_allclose(maps, plain_maps(captured, kind, size, layers), rtol=1e-5)


def test_size_tells_height_from_width(student):
    # The coarse layer has 6 queries: 2 x 3 of 4 x 6, and 3 x 2 of 6 x 4.
    wide, tall = (maps_of(student, size, "self") for size in (SIZE, SIZE[::-1]))
    assert relative_rms(tall, wide) > 1e-2


@pytest.mark.parametrize("normalisation", ["row_mean", "literal"])
def test_loss_and_gradients_are_those_of_the_plain_computation(student, teacher, normalisation):
    def ours(student):
        loss = distillation_loss(student, teacher, SIZE, normalisation=normalisation)
        return jnp.sum(jnp.stack(loss) * weights), loss

    def plain(student):
        loss = [plain_loss(student, teacher, kind, normalisation) for kind in ("self", "cross")]
        return jnp.sum(jnp.stack(loss) * weights), loss

    weights = jnp.array([[1.0, 2.0], [3.0, 4.0]])  # Of each kind and example.
    gradients, loss = quick_jit(jax.grad(ours, has_aux=True))(student)
    expected_gradients, expected = quick_jit(jax.grad(plain, has_aux=True))(student)
    np.testing.assert_allclose(jnp.stack(loss), jnp.stack(expected), rtol=2e-6)
    assert jnp.stack(loss).shape == (2, BATCH)
    for path, pair in expected_gradients.items():
        for gradient, expected_gradient in zip(gradients[path], pair, strict=True):
            assert relative_rms(gradient, expected_gradient) <= 5e-6, path


def test_literal_is_a_multiple_of_the_mean(student, teacher):
    mean = loss_of(student, teacher, SIZE)
    literal = loss_of(student, teacher, SIZE, normalisation="literal")
    for kind in ("self_attention", "cross_attention"):
        expected = getattr(mean, kind) * (len(LAYERS) * math.prod(SIZE))
        np.testing.assert_allclose(getattr(literal, kind), expected, rtol=1e-6)


def test_divergence_of_distributions_by_hand():
    # One query, two keys, logits log(3) and 0 against 0 and 0: (3/4, 1/4) and (1/2, 1/2).
    def captured(logit):
        query = jnp.array([[[[1.0]]]])
        return {"mid_block/attn2": (query, jnp.array([[[[logit]], [[0.0]]]]))}

    loss = loss_of(captured(math.log(3.0)), captured(0.0), (1, 1))
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    np.testing.assert_allclose(loss.cross_attention, [expected], rtol=1e-6)
    np.testing.assert_array_equal(loss.self_attention, [0.0])


def test_teacher_gets_no_gradient_and_every_layer_of_the_student_does(student, teacher):
    _, (of_student, of_teacher) = gradients_of(student, teacher)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_teacher))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(of_student))


def test_no_loss_and_no_gradient_of_a_student_like_the_teacher(student, teacher):
    value, (gradients, _) = gradients_of(student, student)
    assert abs(value) < 1e-12
    _, (different, _) = gradients_of(student, teacher)
    for leaf, other in zip(*map(jax.tree.leaves, (gradients, different)), strict=True):
        assert np.max(np.abs(leaf)) < 1e-5 * np.max(np.abs(other))


def test_small_differences_are_not_lost_in_rounding(student):
    # A loss of 1e-9, of terms whose logarithms alone have errors of 1e-7 each.
    near = jax.tree.map(lambda leaf: leaf * jnp.float32(1.0 + 2**-14), student)
    with jax.enable_x64():
        exact = [
            jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), captured)
            for captured in (near, student)
        ]
        expected = [np.asarray(plain_loss(*exact, kind, "row_mean")) for kind in ("self", "cross")]
    loss = loss_of(near, student, SIZE)
    assert np.max(expected) < 1e-8
    np.testing.assert_allclose(np.stack(loss), np.stack(expected), rtol=1e-2)


def test_probabilities_that_underflow_stay_finite(student, teacher):
    large = jax.tree.map(lambda leaf: 100.0 * leaf, (student, teacher))
    assert maps_of(large[0], SIZE, "cross").min() == 0.0
    for pair in (large, (large[0], teacher), (student, large[1])):
        value, (gradients, _) = gradients_of(*pair)
        assert np.isfinite(value)
        assert value > 0.0
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("heads_in_a_step", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_any_number_of_heads_in_a_step(student, teacher, monkeypatch, heads_in_a_step):
    expected, (expected_gradients, _) = gradients_of(student, teacher)
    # Heads of the largest map, which two layers share: 4 steps, or 2.
    monkeypatch.setattr(distill, "_STEP_FLOATS", heads_in_a_step * BATCH * 24 * 24)
    stepwise = quick_jit(lambda *args: jax.value_and_grad(total_of)(*args))
    value, gradients = stepwise(student, teacher)
    lengths = {
        int(item)
        for item in re.findall(r"length=(\d+)", str(stepwise.trace(student, teacher).jaxpr))
    }
    assert 4 // heads_in_a_step in lengths
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for ours, theirs in zip(*map(jax.tree.leaves, (gradients, expected_gradients)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)


def test_backward_pass_keeps_no_map_of_a_layer_or_a_head():
    layers = {f"layer_{index}": (8, 8) for index in range(4)}
    student, teacher = (capture(name, layers, heads=8) for name in ("student", "teacher"))

    def residuals(student, teacher):
        loss = lambda tree: jnp.sum(jnp.stack(distillation_loss(tree, teacher, (8, 8))))
        return jax.vjp(loss, student)[1]

    kept = jax.eval_shape(residuals, student, teacher)
    floats = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(kept))
    inputs = sum(leaf.size for leaf in jax.tree.leaves(student))
    maps = BATCH * 64 * (64 + TEXT)
    # Beside queries and keys the summed maps of student and teacher; 4 x 8 of them would be 32.
    assert floats <= inputs + 3 * maps


def test_half_precision_gives_float32_maps(student, teacher):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), student)
    for kind in ("self", "cross"):
        maps = maps_of(half, SIZE, kind)
        assert maps.dtype == jnp.float32
        np.testing.assert_allclose(jnp.sum(maps, axis=2), len(LAYERS), rtol=1e-6)
        assert 1e-5 < relative_rms(maps, maps_of(student, SIZE, kind)) < 2e-2
    loss = jax.eval_shape(lambda captured: distillation_loss(captured, captured, SIZE), half)
    assert all(item.dtype == jnp.float32 for item in loss)


def test_chosen_layers(student, teacher):
    fine = {path: pair for path, pair in student.items() if not path.startswith("down_blocks_1")}
    loss = loss_of(student, teacher, SIZE, layers="(down_blocks_0|up_blocks_0)/.*")
    expected = loss_of(fine, {path: teacher[path] for path in fine}, SIZE)
    np.testing.assert_allclose(jnp.stack(loss), jnp.stack(expected), rtol=1e-6)
    only_cross = loss_of(student, teacher, SIZE, layers=".*/attn2")
    np.testing.assert_array_equal(only_cross.self_attention, np.zeros(BATCH))
    everything = loss_of(student, teacher, SIZE)
    np.testing.assert_allclose(only_cross.cross_attention, everything.cross_attention, rtol=1e-6)
    # Small layers alone need no large maps.
    small = loss_of(student, teacher, (2, 3), layers="down_blocks_1/.*")
    assert all(np.all(item > 0.0) for item in small)
    assert choose_layers(student, "all").keys() == student.keys()


def test_errors_name_everything_that_does_not_fit(student, teacher):
    with pytest.raises(ValueError, match=r"no attention matches layers='attn1'.*up_blocks_0/attn2"):
        distillation_loss(student, teacher, SIZE, layers="attn1")
    with pytest.raises(ValueError, match="no cross-attention was captured: there are down"):
        attention_maps(choose_layers(student, ".*attn1"), SIZE, "cross")
    with pytest.raises(ValueError, match="size 4 x 5 is no whole multiple") as caught:
        attention_maps(student, (4, 5), "self")
    assert "down_blocks_0/attn1 has 24 queries\n- down_blocks_1/attn1 has 6" in str(caught.value)
    less = {path: pair for path, pair in teacher.items() if path != "up_blocks_0/attn2"}
    less["more"] = less["down_blocks_0/attn1"]
    less["down_blocks_1/attn2"] = less["down_blocks_0/attn2"]
    with pytest.raises(ValueError, match="student and teacher must see") as caught:
        distillation_loss(student, less, SIZE)
    assert "up_blocks_0/attn2 was captured of the student only" in str(caught.value)
    assert "more was captured of the teacher only" in str(caught.value)
    assert "down_blocks_1/attn2: query and key are ((2, 6, 2, 3), (2, 5, 2, 3))" in str(
        caught.value
    )


def test_errors_of_a_wrong_normalisation(student, teacher, unchecked):
    with pytest.raises(ValueError, match=r"unknown normalisation 'sum'.*row_mean, literal"):
        distillation_loss(student, teacher, SIZE, normalisation="sum")


@pytest.fixture(scope="module")
def of_the_adapter(small_model, small_inputs):
    """Returns remat -> the loss of the small model's adapter, and its gradients."""
    inputs = (small_inputs.latents, small_inputs.timesteps, small_inputs.text)

    def run(remat):
        settings = NetworkSettings(remat=remat)

        def loss(adapter, model):
            changed = model.replace(params={**model.params, "adapter_depth": adapter})
            _, student = predict_with_attention(
                changed, *inputs, variable="depth", settings=settings
            )
            _, teacher = predict_with_attention(model, *inputs, variable=None, settings=settings)
            return jnp.sum(jnp.stack(distillation_loss(student, teacher, (6, 8))))

        return quick_jit(jax.value_and_grad(loss))(small_model.params["adapter_depth"], small_model)

    return run


@pytest.mark.slow
def test_an_adapter_learns_from_it_with_and_without_checkpointing(of_the_adapter):
    value, gradients = of_the_adapter("none")
    assert value > 1e-5
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))
    checked_value, checked = of_the_adapter("blocks")
    np.testing.assert_allclose(checked_value, value, rtol=1e-5)
    for ours, theirs in zip(*map(jax.tree.leaves, (checked, gradients)), strict=True):
        assert relative_rms(ours, theirs) <= 1e-4
