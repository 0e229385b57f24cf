from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sd_jax.training.optim import OPTIMIZERS, OptimizerConfig, learning_rate, make_optimizer

SHAPES = {"unet": {"conv": {"kernel": (3, 3, 4, 8), "bias": (8,)}, "norm": {"scale": (8,)}}}
STEPS = 20


def tree(rng, size=1.0):
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape) * size, jnp.float32),
        SHAPES,
        is_leaf=lambda item: isinstance(item, tuple),
    )


def run(config, params, gradients):
    optimizer = make_optimizer(config)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def run_torch(config, params, gradients, groups):
    """Returns torch's parameters; `groups` tells (factor of the rate, weight decay) of each."""
    import torch

    leaves = [torch.nn.Parameter(torch.tensor(np.asarray(x))) for x in jax.tree.leaves(params)]
    optimizer = torch.optim.AdamW(
        [
            {"params": [leaf], "lr": config.learning_rate * factor, "weight_decay": decay}
            for leaf, (factor, decay) in zip(leaves, groups, strict=True)
        ],
        betas=(config.b1, config.b2),
        eps=config.eps,
    )
    base = [group["lr"] for group in optimizer.param_groups]
    for step, gradient in enumerate(gradients):
        fraction = float(learning_rate(config)(step)) / config.learning_rate
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * fraction
        for leaf, value in zip(leaves, jax.tree.leaves(gradient), strict=True):
            leaf.grad = torch.tensor(np.asarray(value))
        if config.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(leaves, config.max_grad_norm)
        optimizer.step()
    return [leaf.detach().numpy() for leaf in leaves]


@pytest.mark.parity
@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        ({}, [(1, 0.1)] * 3),
        ({"max_grad_norm": 0.5}, [(1, 0.1)] * 3),
        ({"schedule": "cosine", "warmup_steps": 5, "num_steps": 18}, [(1, 0.1)] * 3),
        ({"no_decay": (".*bias", ".*/norm/.*")}, [(1, 0.0), (1, 0.1), (1, 0.0)]),
        (
            {"lr_multipliers": ((".*/kernel", 0.25), (".*/conv/.*", 3.0))},
            [(3.0, 0.1), (0.25, 0.1), (1.0, 0.1)],
        ),
    ],
)
def test_adamw_is_that_of_torch(rng, settings, groups):
    config = OptimizerConfig(learning_rate=3e-3, weight_decay=0.1, **settings)
    # Of a size whose own rounding, 20 times, is below the tolerance.
    params = tree(rng, 0.3)
    gradients = [tree(rng, size) for size in np.geomspace(1.0, 1e-3, STEPS)]
    ours = jax.tree.leaves(run(config, params, gradients))
    for our, their in zip(ours, run_torch(config, params, gradients, groups), strict=True):
        np.testing.assert_allclose(our, their, atol=1e-6, rtol=0)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_the_rate_grows_then_falls_to_its_end(schedule):
    config = OptimizerConfig(
        learning_rate=2.0, schedule=schedule, warmup_steps=3, num_steps=13, final_fraction=0.1
    )
    rate = learning_rate(config)
    np.testing.assert_allclose([rate(step) for step in range(4)], [0.5, 1.0, 1.5, 2.0], rtol=1e-6)
    middle, end = {"constant": (2, 2), "cosine": (1.1, 0.2), "linear": (1.1, 0.2)}[schedule]
    np.testing.assert_allclose(rate(8), middle, rtol=1e-6)
    np.testing.assert_allclose([rate(13), rate(50)], end, rtol=1e-6)
    fifth = {"constant": 2.0, "linear": 1.64, "cosine": 0.2 + 0.9 * (1 + math.cos(0.2 * math.pi))}
    np.testing.assert_allclose(rate(jnp.int32(5)), fifth[schedule], rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_finds_the_minimum(rng, name):
    config = OptimizerConfig(
        name=name, learning_rate=0.1, weight_decay=0.0, schedule="linear", num_steps=60
    )
    target = {"w": jnp.asarray(rng.uniform(-1, 1, (64, 64)), jnp.float32)}
    optimizer = make_optimizer(config)

    def step(carry, _):
        params, state = carry
        gradients = jax.tree.map(jnp.subtract, params, target)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = jax.tree.map(jnp.zeros_like, target)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), None, 60)
    np.testing.assert_allclose(params["w"], target["w"], atol=0.05)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_and_rate_are_those_asked_for_without_a_gradient(rng, name):
    """With gradients of zero, what is left is params *= 1 - rate * decay, for every optimizer."""
    config = OptimizerConfig(
        name=name,
        learning_rate=0.5,
        weight_decay=0.2,
        no_decay=(".*bias",),
        lr_multipliers=((".*scale", 0.5),),
    )
    params = tree(rng)
    after = run(config, params, [jax.tree.map(jnp.zeros_like, params)])
    expected = {"conv": {"kernel": 0.9, "bias": 1.0}, "norm": {"scale": 0.95}}
    jax.tree.map(
        lambda new, old, factor: np.testing.assert_allclose(new, factor * old, rtol=1e-6),
        after["unet"],
        params["unet"],
        expected,
    )


def test_adafactor_uses_the_rate_as_given(rng):
    """Its first update has root mean square 1 wherever the parameters are."""
    config = OptimizerConfig(name="adafactor", learning_rate=1e-3, weight_decay=0.0)
    params = {"w": jnp.full((256, 128), 7.0)}
    gradient = {"w": jnp.asarray(rng.normal(size=(256, 128)), jnp.float32)}
    change = run(config, params, [gradient])["w"] - params["w"]
    np.testing.assert_allclose(np.sqrt(np.mean(change**2)), 1e-3, rtol=1e-2)
    sizes = [leaf.size for leaf in jax.tree.leaves(make_optimizer(config).init(params))]
    assert sum(sizes) < 500


def test_muon_moves_kernels_by_orthogonal_matrices_of_adams_size(rng):
    """A kernel's update has singular values that are alike, whatever those of its gradient."""
    config = OptimizerConfig(name="muon", learning_rate=1e-2, weight_decay=0.0)
    params, gradient = tree(rng), tree(rng)
    conv = gradient["unet"]["conv"]
    conv["kernel"] = conv["kernel"] * jnp.geomspace(1.0, 1e-2, 8)[None, None, None]
    after = run(config, params, [gradient])
    change = (after["unet"]["conv"]["kernel"] - params["unet"]["conv"]["kernel"]).reshape(36, 8)
    values = np.linalg.svd(np.asarray(change), compute_uv=False)
    # 0.2 a parameter is 0.2 * sqrt(36) a singular value; the iteration is good to some 40 %.
    np.testing.assert_allclose(values, 1e-2 * 0.2 * math.sqrt(36), rtol=0.45)
    aligned = np.sum(np.asarray(change) * np.asarray(conv["kernel"]).reshape(36, 8))
    assert aligned < 0, "it goes down"


def test_muon_leaves_all_but_kernels_to_adam(rng):
    params = {**tree(rng), "positions": {"embedding": jnp.ones((4, 8))}}
    gradients = [jax.tree.map(lambda leaf: leaf + 0.1, params)] * 3
    config = OptimizerConfig(name="muon", learning_rate=1e-2, weight_decay=0.0)
    after = run(config, params, gradients)
    optimizer = optax.nadam(1e-2)
    state, expected = optimizer.init(params), params
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, expected)
        expected = optax.apply_updates(expected, updates)
    for place in (("unet", "conv", "bias"), ("unet", "norm", "scale"), ("positions", "embedding")):
        ours, theirs = after, expected
        for name in place:
            ours, theirs = ours[name], theirs[name]
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    kernels = (found["unet"]["conv"]["kernel"] for found in (after, expected))
    assert not np.allclose(*kernels)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_paths_end_in_those_of_parameters_and_settings_keep_the_structure(rng, name):
    params = {**tree(rng), "big": {"kernel": jnp.zeros((64, 128))}}
    config = OptimizerConfig(name=name)
    state = make_optimizer(config).init(params)
    known = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    moments = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        text = jax.tree_util.keystr(path)
        if text.endswith("ns_coeffs"):  # Muon's polynomial, the same for all parameters
            continue
        assert leaf.ndim == 0 or any(text.endswith(end) for end in known), text
        moments += leaf.ndim > 0
    assert moments >= len(known)
    other = dataclasses.replace(
        config, max_grad_norm=1.0, no_decay=(".*bias",), lr_multipliers=((".*", 2.0),)
    )
    assert jax.tree.structure(make_optimizer(other).init(params)) == jax.tree.structure(state)


def test_a_multiplier_of_zero_freezes(rng):
    params = tree(rng)
    config = OptimizerConfig(learning_rate=0.1, lr_multipliers=((".*kernel", 0.0),))
    after = run(config, params, [tree(rng)])
    np.testing.assert_array_equal(after["unet"]["conv"]["kernel"], params["unet"]["conv"]["kernel"])
    assert np.all(after["unet"]["conv"]["bias"] != params["unet"]["conv"]["bias"])


def test_all_problems_are_told_at_once(unchecked):
    config = OptimizerConfig(
        name="sgd",  # type: ignore[arg-type]
        learning_rate=-1.0,
        schedule="cosine",
        warmup_steps=10,
        num_steps=10,
        final_fraction=2.0,
        b1=1.0,
        b2=-0.1,
        eps=0.0,
        weight_decay=math.nan,
        max_grad_norm=math.inf,
        lr_multipliers=((".*", -2.0), ("(", 1.0)),
        no_decay=("[",),
    )
    with pytest.raises(ValueError, match="settings") as error:
        make_optimizer(config)
    text = str(error.value)
    for name in ("name", "learning_rate", "num_steps", "final_fraction", "b1", "b2", "eps"):
        assert f"\n- {name} is " in text
    for part in ("weight_decay is nan", "max_grad_norm is inf", "factor -2.0", "'('", "'['"):
        assert part in text
    assert OptimizerConfig().problems() == []


def test_a_pattern_without_a_parameter_is_named(rng):
    config = OptimizerConfig(lr_multipliers=(("unet/up.*", 2.0),), no_decay=("bias", ".*bias"))
    with pytest.raises(ValueError, match=r"matches 'unet/up\.\*', 'bias' of .*unet/conv/bias"):
        make_optimizer(config).init(tree(rng))
