"""Drawing a graph with real (tiny) networks: groups, hints, guidance and what is given."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fgdm_jax.adapter import translate
from fgdm_jax.draw import Drawing, draw
from fgdm_jax.graph import Factor, parse_graph
from fgdm_jax.testing import random_model, smallest_config
from sd_jax.encoding import decode_images
from sd_jax.model import Model
from sd_jax.samplers import make_sampler
from sd_jax.schedule import make_schedule, sampling_timesteps

ROWS = 2


@pytest.fixture(scope="module")
def model():
    return random_model(smallest_config({"segmentation": 1, "depth": 1}))


@pytest.fixture(scope="module")
def text():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.standard_normal((2, ROWS, 5, 16)), jnp.float32)


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(0), ROWS)


def drawing_of(model, graph, steps=4, **settings):
    schedule = make_schedule(model.config.schedule)
    table = make_sampler("ddim", schedule, sampling_timesteps(steps, 1000, "trailing"))
    graph = parse_graph(graph)
    names = [factor.variable for factor in graph]
    return Drawing(graph, dict.fromkeys(names, (4, 4)), dict.fromkeys(names, table), **settings)


def test_sequential_draws_are_calls_one_after_the_other(model, text, keys):
    drawing = drawing_of(model, "segmentation, depth<segmentation", mode="sequential")
    both = draw(model, drawing, text[0], keys).factors
    first = draw(model, drawing, text[0], keys, wanted=["segmentation"]).factors["segmentation"]
    second = draw(
        model, drawing, text[0], keys, wanted=["depth"], given={"segmentation": first.latents}
    ).factors
    np.testing.assert_array_equal(both["segmentation"].latents, first.latents)
    assert list(second) == ["depth"]
    np.testing.assert_array_equal(both["depth"].latents, second["depth"].latents)
    joint = draw(model, dataclasses.replace(drawing, mode="joint"), text[0], keys).factors
    assert float(jnp.abs(joint["depth"].latents - both["depth"].latents).max()) > 1e-3


def test_an_adapter_of_clean_parents_waits_for_them(model, text, keys):
    adapter = dataclasses.replace(model.config.adapter_depth, clean_parents=True)
    clean = Model(model.params, dataclasses.replace(model.config, adapter_depth=adapter))
    drawing = drawing_of(model, "segmentation, depth<segmentation")
    told: list[str] = []
    report = lambda names, steps: told.append(names)
    drawn = draw(clean, drawing, text[0], keys, report=report).factors
    assert told == ["segmentation", "depth"]
    asked = dataclasses.replace(drawing, mode="sequential", what="x0")
    expected = draw(model, asked, text[0], keys).factors
    for name in ("segmentation", "depth"):
        np.testing.assert_array_equal(drawn[name].latents, expected[name].latents)
    # What is asked for holds for all, whatever they were trained on.
    for what in ("latents", "x0"):
        same = dataclasses.replace(drawing, what=what)
        both = [draw(item, same, text[0], keys).factors["depth"].latents for item in (clean, model)]
        np.testing.assert_array_equal(*both)
        assert float(jnp.abs(both[0] - drawn["depth"].latents).max()) > 1e-3


def test_a_controlnet_sees_the_picture_of_its_parent(model, text, keys):
    drawing = drawing_of(model, "segmentation, image<segmentation:controlnet")
    drawn = draw(model, drawing, text[0], keys).factors
    latents = drawn["segmentation"].latents
    assert decode_images(model, latents, dtype="float32").shape == (ROWS, 32, 32, 3)
    given = {"segmentation": latents}
    again = draw(model, drawing, text[0], keys, given=given).factors
    np.testing.assert_array_equal(again["image"].latents, drawn["image"].latents)
    other = draw(model, drawing, text[0], keys, given={"segmentation": -latents}).factors
    assert float(jnp.abs(other["image"].latents - again["image"].latents).max()) > 1e-4
    none = dataclasses.replace(drawing, conditioning_scale=0.0)
    prior = dataclasses.replace(drawing, graph=(Factor("image", kind="prior"),))
    np.testing.assert_allclose(
        draw(model, none, text[0], keys, given=given).factors["image"].latents,
        draw(model, prior, text[0], keys).factors["image"].latents,
        atol=1e-4,
    )


def test_guidance_of_one_factor_leaves_the_other_as_it_is(model, text, keys):
    plain = drawing_of(model, "segmentation, depth<segmentation", mode="sequential")
    guided = dataclasses.replace(plain, guidance_scales={"depth": 4.0})
    drawn = [
        draw(model, drawing, text[0], keys, negative_embeddings=text[1]).factors
        for drawing in (plain, guided)
    ]
    ours, theirs = (item["segmentation"].latents for item in drawn)
    np.testing.assert_array_equal(ours, theirs)
    assert float(jnp.abs(drawn[0]["depth"].latents - drawn[1]["depth"].latents).max()) > 1e-3
    with pytest.raises(ValueError, match="need negative_embeddings"):
        draw(model, guided, text[0], keys)


@pytest.mark.parametrize("scales", [{}, {"segmentation": 3.0, "depth": 3.0}])
def test_each_factor_reads_the_text_in_its_own_way(model, text, keys, scales):
    translating = dataclasses.replace(
        model.config.adapter_segmentation, text_dim=text.shape[-1], text_channels=4
    )
    config = dataclasses.replace(model.config, adapter_segmentation=translating)
    reader = random_model(config)
    inside = reader.params["adapter_segmentation"]
    drawing = drawing_of(model, "segmentation, depth", guidance_scales=scales)
    both = draw(reader, drawing, text[0], keys, negative_embeddings=text[1]).factors
    # The same weights, told to leave the text as it is, with a text that was translated before.
    plain = Model(reader.params, model.config)
    texts = [translate(translating, inside, item) for item in text]
    first = draw(plain, drawing, texts[0], keys, negative_embeddings=texts[1]).factors
    second = draw(plain, drawing, text[0], keys, negative_embeddings=text[1]).factors
    for name, expected, other in (("segmentation", first, second), ("depth", second, first)):
        drawn = both[name].latents
        np.testing.assert_allclose(drawn, expected[name].latents, atol=1e-5)
        assert float(jnp.abs(drawn - other[name].latents).max()) > 1e-3
    # Stable Diffusion alone reads it as it is, whatever the adapters of its variable would.
    prior = dataclasses.replace(drawing, graph=(Factor("segmentation", kind="prior"),))
    ours, theirs = (
        draw(item, prior, text[0], keys, negative_embeddings=text[1]).factors["segmentation"]
        for item in (reader, plain)
    )
    np.testing.assert_array_equal(ours.latents, theirs.latents)


def test_other_values_compile_nothing(model, text, keys):
    drawing = drawing_of(model, "segmentation, depth<segmentation", guidance_scales={"depth": 2.0})
    draw(model, drawing, text[0], keys, negative_embeddings=text[1])
    reversed_keys, compiled = keys[::-1], []

    def note(event: str, seconds: float, **_: object) -> None:
        compiled.append(event.endswith("backend_compile_duration"))

    other = dataclasses.replace(drawing, guidance_scales={"depth": 3.0})
    prompts = text[1], text[0]
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        draw(model, other, prompts[0], reversed_keys, negative_embeddings=prompts[1])
    finally:
        jax.monitoring.clear_event_listeners()
    assert not any(compiled)


def test_progress_and_early_predictions(model, text, keys):
    drawing = drawing_of(model, "segmentation, depth<segmentation", steps=12)
    told: list[tuple[str, int]] = []
    state = draw(
        model,
        drawing,
        text[0],
        keys,
        keep=(0, 11),
        report=lambda names, steps: told.append((names, steps)),
    )
    assert told == [("segmentation+depth", 6)] * 2
    kept = state.kept["depth"]
    assert kept.shape == (2, ROWS, 4, 4, 4)
    np.testing.assert_array_equal(kept[1], state.factors["depth"].x0)


def test_what_is_drawn_elsewhere_is_refused(model, text, keys):
    graph = "foreground_depth, background_depth, image<foreground_depth+background_depth:cnc"
    drawing = drawing_of(model, graph)
    given = dict.fromkeys(("foreground_depth", "background_depth"), jnp.zeros((ROWS, 4, 4, 4)))
    with pytest.raises(ValueError, match="of kind 'cnc', which is drawn elsewhere"):
        draw(model, drawing, text[0], keys, given=given)
