"""The loss of a graph: what it trains, on which examples, with which parents."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fgdm_jax.examples import (
    noisy_latents,
    seen_parents,
)
from fgdm_jax.graph import Factor
from fgdm_jax.losses import Distillation, GraphLoss
from fgdm_jax.networks import FactorNetworks
from fgdm_jax.sampling import factor_keys
from fgdm_jax.testing import SEEN, random_model, smallest_config, with_adapters
from sd_jax.encoding import posterior_of, text_of
from sd_jax.losses import draw
from sd_jax.model import Model
from sd_jax.network_settings import DEFAULT_SETTINGS
from sd_jax.schedule import add_noise, make_schedule
from sd_jax.testing import quick_jit
from sd_jax.training.partition import merge_params, split_params
from sd_jax.training.state import make_state
from sd_jax.training.step import make_train_step
from sd_jax.typing import flat_params, nested_params

GRAPH = (
    Factor("segmentation"),
    Factor("depth", parents=("segmentation",)),
    Factor("image", parents=("segmentation", "depth")),
)
CONTROLLED = (Factor("segmentation"), Factor("image", parents=("segmentation",), kind="controlnet"))
NO_DISTILLATION = Distillation(weight=0.0)
ROWS = 4


@pytest.fixture(scope="module")
def model():
    config = smallest_config(has_time=True)
    text = {"text_dim": config.unet.cross_attention_dim, "text_channels": 4}
    return random_model(with_adapters(config, SEEN, has_time=True, **text))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    images = {
        name: jnp.asarray(rng.uniform(-1, 1, (ROWS, 32, 32, 3)), jnp.float32)
        for name in ("segmentation", "depth", "image")
    }
    return {**images, "input_ids": jnp.asarray(rng.integers(0, 999, (ROWS, 8)), jnp.int32)}


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(1), ROWS)


def loss_of(model, trained=("segmentation", "depth", "image"), graph=GRAPH, **settings):
    settings = {"distillation": NO_DISTILLATION, **settings}
    return GraphLoss(model.config, graph, trained, **settings)


def parts(model, patterns):
    return split_params(model.params, patterns)


def gradients(loss, model, batch, keys, patterns, step=0):
    params, frozen = parts(model, patterns)
    run = quick_jit(jax.grad(lambda p, s: loss(p, frozen, batch, keys, s)[0]))
    return flat_params(run(params, step))


def test_the_loss_is_the_sum_of_the_factors_errors(model, batch, keys):
    loss = loss_of(model, null_parents=0.0)
    value, metrics = quick_jit(loss)({}, model.params, batch, keys)
    schedule = make_schedule(model.config.schedule)
    times = draw(keys, (), 1000).timesteps
    text = text_of(model, batch, jnp.float32)
    found = {
        name: noisy_latents(model, batch, name, keys, times)
        for name in ("segmentation", "depth", "image")
    }
    expected = {}
    for factor in GRAPH:
        parents = [
            jnp.where(
                (times > 0)[:, None, None, None],
                add_noise(schedule, found[name].x0, found[name].noise, times - 1),
                found[name].x0,
            )
            for name in factor.parents
        ]
        own = found[factor.variable]
        latents = add_noise(schedule, own.x0, own.noise, times)
        networks = FactorNetworks(model, factor.variable, DEFAULT_SETTINGS)
        prediction = networks(latents, times, text, parents or None)
        expected[factor.variable] = float(jnp.mean((prediction - own.noise) ** 2))
    for name, error in expected.items():
        assert float(metrics[f"loss_{name}"].value) == pytest.approx(error, rel=1e-5)
    assert float(value) == pytest.approx(sum(expected.values()), rel=1e-5)


def test_an_adapter_may_learn_from_clean_parents(model, batch, keys):
    adapter = dataclasses.replace(model.config.adapter_image, clean_parents=True)
    config = dataclasses.replace(model.config, adapter_image=adapter)
    _, noisy = quick_jit(loss_of(model, null_parents=0.0))({}, model.params, batch, keys)
    clean_loss = loss_of(Model(model.params, config), null_parents=0.0)
    _, clean = quick_jit(clean_loss)({}, model.params, batch, keys)
    # The others learn as they did.
    for name in ("loss_segmentation", "loss_depth"):
        assert float(clean[name].value) == pytest.approx(float(noisy[name].value), rel=1e-6)
    times = draw(keys, (), 1000).timesteps
    found = {
        name: noisy_latents(model, batch, name, keys, times)
        for name in ("segmentation", "depth", "image")
    }
    own = found["image"]
    prediction = FactorNetworks(model, "image", DEFAULT_SETTINGS)(
        own.now,
        times,
        text_of(model, batch, jnp.float32),
        [found["segmentation"].x0, found["depth"].x0],
    )
    expected = float(jnp.mean((prediction - own.noise) ** 2))
    assert float(clean["loss_image"].value) == pytest.approx(expected, rel=1e-5)
    assert float(noisy["loss_image"].value) != pytest.approx(expected, rel=1e-3)


def test_a_variable_is_drawn_the_same_whatever_is_beside_it(model, batch, keys):
    alone = loss_of(model, ("segmentation",), (Factor("segmentation"),))
    together = loss_of(model)
    _, one = quick_jit(alone)({}, model.params, batch, keys)
    _, all_ = quick_jit(together)({}, model.params, batch, keys)
    assert float(one["loss_segmentation"].value) == pytest.approx(
        float(all_["loss_segmentation"].value), rel=1e-6
    )
    noise = {
        name: noisy_latents(model, batch, name, keys, jnp.zeros(ROWS, jnp.int32)).noise
        for name in ("segmentation", "depth")
    }
    assert float(jnp.abs(noise["segmentation"] - noise["depth"]).mean()) > 0.5


def test_every_tensor_of_the_trained_adapters_has_a_gradient(model, batch, keys):
    loss = loss_of(model)
    found = gradients(loss, model, batch, keys, ["adapter_.*"])
    assert {path.split("/")[0] for path in found} == {
        "adapter_segmentation",
        "adapter_depth",
        "adapter_image",
    }
    assert [path for path, leaf in found.items() if not np.abs(leaf).max() > 0] == []


def test_distillation_alone_has_a_gradient_in_the_first_adapter_and_nowhere_else(
    model, batch, keys
):
    trained = ("segmentation", "depth")
    settings = {"distillation": Distillation(weight=1.0, layers=".*")}
    with_, without = (
        gradients(loss, model, batch, keys, ["adapter_(segmentation|depth)/.*", "unet/.*"])
        for loss in (
            loss_of(model, trained, GRAPH[:2], **settings),
            loss_of(model, trained, GRAPH[:2]),
        )
    )
    differing = {
        path.split("/")[0]
        for path in with_
        if np.abs(with_[path] - without[path]).max() > 1e-4 * np.abs(without[path]).max()
    }
    # The student goes through the UNet; the teacher's pass would add the same sign twice.
    assert "adapter_segmentation" in differing
    assert differing <= {"adapter_segmentation", "unet"}
    ours = {path for path in with_ if path.startswith("adapter_segmentation")}
    assert all(np.abs(with_[path] - without[path]).max() > 0 for path in ours)


def test_distillation_every_other_step_compiles_once(model, batch, keys):
    loss = loss_of(model, ("segmentation",), distillation=Distillation(weight=1.0, every=2))
    always = loss_of(model, ("segmentation",), distillation=Distillation(weight=1.0))
    run = quick_jit(lambda step: loss({}, model.params, batch, keys, step))
    values = [run(step)[1] for step in range(4)]
    assert run._cache_size() == 1
    expected = quick_jit(always)({}, model.params, batch, keys, 0)[1]
    distances = [float(metrics["distance_segmentation"].value) for metrics in values]
    # Steps are counted from 1: the second and the fourth, as lines of a log are.
    assert distances[0] == distances[2] == 0
    assert distances[1] == distances[3] > 0
    assert distances[1] == pytest.approx(float(expected["distance_segmentation"].value), rel=1e-5)


def test_distillation_trains_at_its_steps_alone(model, batch, keys):
    """The gradient passes the condition: as without one at a step of its own, else as without."""
    trained, frozen = split_params(model.params, ("adapter_segmentation/.*",))

    def gradients(step, **settings):
        loss = loss_of(model, ("segmentation",), distillation=Distillation(**settings))
        return flat_params(
            quick_jit(jax.grad(lambda tree: loss(tree, frozen, batch, keys, step)[0]))(trained)
        )

    due, not_due = (gradients(step, weight=1.0, every=2) for step in (1, 0))
    always, never = gradients(1, weight=1.0), gradients(0, weight=0.0)
    for ours, theirs in ((due, always), (not_due, never)):
        for path, value in theirs.items():
            np.testing.assert_allclose(ours[path], value, rtol=1e-4, atol=1e-6, err_msg=path)
    assert any(not np.allclose(due[path], not_due[path], rtol=1e-2) for path in due)


def test_an_adapter_at_zero_has_no_distance(batch, keys):
    config = smallest_config(has_time=True)
    adapter = dataclasses.replace(config.adapter_segmentation, zero_convs=True)
    config = dataclasses.replace(config, adapter_segmentation=adapter)
    model = random_model(config)
    flat = flat_params(model.params)
    zeroed = {path: leaf * 0 if "zero_convs" in path else leaf for path, leaf in flat.items()}
    model = Model(nested_params(zeroed), config)
    loss = loss_of(model, ("segmentation",), distillation=Distillation(weight=1.0))
    _, metrics = quick_jit(loss)({}, model.params, batch, keys)
    assert float(metrics["distance_segmentation"].value) == pytest.approx(0, abs=1e-6)


def test_examples_train_the_factors_that_they_can(model, batch, keys):
    present = np.ones((ROWS, 2), np.float32)
    present[0, 0] = present[1, 1] = 0  # no segmentation; no depth
    present[2] = 0
    partial = {**batch, "present": jnp.asarray(present)}
    loss = loss_of(model, columns=("segmentation", "depth"))
    terms = loss._terms({}, model.params, partial, keys)
    counts = {name: term.counts.tolist() for name, term in terms.items()}
    assert counts == {
        "segmentation": [0, 1, 0, 1],
        "depth": [0, 0, 0, 1],
        "image": [1, 1, 0, 1],
    }
    # A missing parent is a nulled one, and what stands in its place is not seen.
    noise = {**partial, "segmentation": partial["segmentation"].at[0].set(1.0)}
    again = loss._terms({}, model.params, noise, keys)
    np.testing.assert_array_equal(again["image"].errors[0], terms["image"].errors[0])
    value, _ = quick_jit(loss)({}, model.params, partial, keys)
    expected = sum((term.errors * term.counts).sum() for term in terms.values()) / ROWS
    assert float(value) == pytest.approx(float(expected), rel=1e-5)


def test_parents_are_nulled_as_often_as_asked_and_each_on_its_own():
    factor = GRAPH[2]
    keys = jax.random.split(jax.random.key(3), 4000)
    seen = seen_parents(factor, {}, (), keys, 0.2)
    shares = {name: float(values.mean()) for name, values in seen.items()}
    assert shares == {name: pytest.approx(0.8, abs=0.03) for name in factor.parents}
    both = float((seen["segmentation"] * seen["depth"]).mean())
    assert both == pytest.approx(0.64, abs=0.03)
    assert all(values.all() for values in seen_parents(factor, {}, (), keys, 0.0).values())


def test_latents_of_the_step_before_are_clean_at_step_0(model, batch, keys):
    noisy = noisy_latents(model, batch, "depth", keys, jnp.array([0, 1, 500, 999]))
    np.testing.assert_array_equal(noisy.before[0], noisy.x0[0])
    # Each less noisy than its own step.
    for row in range(1, ROWS):
        distance = [
            float(jnp.abs(x[row] - noisy.x0[row]).mean()) for x in (noisy.before, noisy.now)
        ]
        assert 0 < distance[0] < distance[1] + 1e-6


def test_cached_latents_of_the_image(model, batch, keys):
    posterior = posterior_of(model, batch, "image", jnp.float32)
    cached = {"latent_mean": posterior.mean, "latent_logvar": posterior.log_variance}
    without = {name: value for name, value in batch.items() if name != "image"}
    found = [
        quick_jit(loss_of(model, ("image",)))({}, model.params, item, keys)[0]
        for item in (batch, {**without, **cached})
    ]
    assert float(found[0]) == pytest.approx(float(found[1]), rel=1e-5)


def test_a_controlnet_learns_from_the_image_of_its_parent(model, batch, keys):
    """Joint fine-tuning (A.2.4) trains the block that takes the hint, and the first adapter."""
    loss = loss_of(model, ("segmentation", "image"), CONTROLLED)
    patterns = ["adapter_segmentation/.*", "controlnet/controlnet_cond_embedding/.*"]
    found = gradients(loss, model, batch, keys, patterns)
    assert [path for path, leaf in found.items() if not np.abs(leaf).max() > 0] == []
    assert any(path.startswith("controlnet/") for path in found)


def test_one_step_of_the_loop(model, batch, keys):
    loss = loss_of(model, ("segmentation",), distillation=Distillation(every=2))
    params, frozen = parts(model, ["adapter_segmentation/.*"])
    optimizer = optax.sgd(1e-2)
    state = make_state(jax.tree.map(jnp.array, params), optimizer)
    step = quick_jit(make_train_step(loss, optimizer))
    losses = []
    for _ in range(8):
        state, metrics = step(state, frozen, batch, jax.random.key(0))
        losses.append(float(metrics["loss_segmentation"]))
    assert all(np.isfinite(losses))
    merged = merge_params(state.params, frozen)
    for path, leaf in flat_params(model.params).items():
        changed = not np.array_equal(flat_params(merged)[path], leaf)
        assert changed == path.startswith("adapter_segmentation/"), path


@pytest.mark.parametrize(
    ("trained", "graph", "message"),
    [
        ((), GRAPH, "no factor is to be trained"),
        (("normal",), GRAPH, "there is no factor 'normal' to train"),
        (("image",), (Factor("image", kind="prior"),), "is of kind 'prior'"),
        (("image",), (Factor("image", parents=("depth",)),), "depth"),
    ],
)
def test_what_cannot_be_trained(model, trained, graph, message):
    with pytest.raises(ValueError, match=message):
        loss_of(model, trained, graph)


def test_keys_of_variables_differ(keys):
    ours, theirs = (jax.random.key_data(factor_keys(keys, name)) for name in ("depth", "normal"))
    assert not np.array_equal(ours, theirs)
