"""The pipeline: a prompt and a graph in, and what the programs below it make of them out."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import sample_fgdm
from fgdm_jax.compliance import object_recall
from fgdm_jax.decode import decode_map
from fgdm_jax.draw import Drawing, draw
from fgdm_jax.drawn import Drawn
from fgdm_jax.graph import Factor, parse_graph
from fgdm_jax.pipeline import GRAPHS, FactorGraphDiffusion
from fgdm_jax.pipeline_checks import ancestors
from fgdm_jax.scores import VOID, Scores
from fgdm_jax.testing import random_model, smallest_config
from fgdm_jax.vocabulary import classes_of
from input_pipeline import schema
from input_pipeline.palettes import palette
from sd_jax.encoding import decode_images, encode_prompts
from sd_jax.samplers import make_sampler
from sd_jax.schedule import make_schedule, sampling_timesteps
from sd_jax.tokenizer import Tokenizer

PROMPT = "a red ball in front of a box on grass"
SIZE = (64, 64)
SEEN = {
    **dict.fromkeys(("segmentation", "depth", "foreground_depth", "background_depth"), 1),
    "image": 2,
}
CHAIN = GRAPHS["chain"]
MAPS = "segmentation, depth<segmentation"
CONTROLNET = GRAPHS["controlnet"]


@pytest.fixture(scope="module")
def pipeline() -> FactorGraphDiffusion:
    model = random_model(smallest_config(SEEN))
    return FactorGraphDiffusion(model, Tokenizer.default(), palette("scenes"))


def drawn_by(pipeline, graph=CHAIN, variables=None, **settings) -> Drawn:
    given = settings.get("given")
    size = {} if isinstance(given, Drawn) else {"size": SIZE}
    settings = {"num_steps": 2, "guidance_scale": 3.0, **size, **settings}
    return pipeline(PROMPT, graph, variables, **settings)


@pytest.fixture(scope="module")
def chain(pipeline) -> Drawn:
    return drawn_by(pipeline, "chain", seeds=(3, 4), keep_steps=(0, 1))


@pytest.fixture(scope="module")
def maps(pipeline) -> Drawn:
    return drawn_by(pipeline, "controlnet", ["segmentation"], seeds=range(3), batch_size=1)


def latents_by_hand(pipeline, text: str, seeds, given=None, keep=()):
    model = pipeline.model
    graph = parse_graph(text)
    schedule = make_schedule(model.config.schedule)
    table = make_sampler("dpmpp_2m", schedule, sampling_timesteps(2, 1000, "trailing"))
    names = [factor.variable for factor in graph]
    sizes, scales = dict.fromkeys(names, (8, 8)), dict.fromkeys(names, 3.0)
    drawing = Drawing(graph, sizes, dict.fromkeys(names, table), scales)
    texts = encode_prompts(model, jnp.asarray(pipeline.tokenizer([PROMPT, ""])))
    state = draw(
        model,
        drawing,
        jnp.repeat(texts[:1], len(seeds), 0),
        jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32)),
        negative_embeddings=jnp.repeat(texts[1:], len(seeds), 0),
        given=given,
        keep=keep,
    )
    return {name: item.latents for name, item in state.factors.items()}


def test_a_chain_is_what_the_programs_below_draw(pipeline, chain):
    latents = latents_by_hand(pipeline, CHAIN, (3, 4), keep=(0, 1))
    for name in ("segmentation", "depth", "image"):
        np.testing.assert_array_equal(chain.latents[name], latents[name])
    pictures = decode_images(pipeline.model, latents["depth"], dtype=jnp.float32)
    np.testing.assert_array_equal(chain.maps["depth"], decode_map("depth", pictures))
    assert chain.images.shape == (2, *SIZE, 3)
    assert chain.images.dtype == np.uint8
    assert chain.maps.keys() == {"segmentation", "depth"}
    assert chain.seeds == (3, 4)


def test_recall_is_that_of_the_segmentations(chain):
    classes = palette("scenes")
    assert chain.objects == ("ball", "box", "grass")
    asked = [classes_of(name, classes.classes) for name in chain.objects]
    labels = jnp.asarray(chain.maps["segmentation"])
    recall = object_recall(labels, asked, colours=classes.colours)
    np.testing.assert_array_equal(chain.recall, recall)
    assert chain.maps["segmentation"].dtype == np.int32
    colours = {*map(tuple, classes.colours.tolist()), classes.void_colour}
    assert {*map(tuple, chain.pictures["segmentation"].reshape(-1, 3).tolist())} <= colours
    assert "2 draws of segmentation, depth, image; recall of ball, box, grass" in repr(chain)


def test_predictions_of_the_last_step_are_near_what_was_drawn(chain):
    assert {name: item.shape for name, item in chain.predictions.items()} == dict.fromkeys(
        ("segmentation", "depth", "image"), (2, 2, *SIZE, 3)
    )
    last = chain.predictions["image"][:, 1].astype(int)
    assert np.abs(last - chain.images).mean() < 2
    assert np.abs(chain.predictions["image"][:, 0].astype(int) - last).max() > 2


def test_draws_depend_on_their_seed_alone_in_any_batch(pipeline, chain):
    told: list[int] = []
    settings = {"seeds": (4, 9, 3), "batch_size": 2, "keep_steps": (0, 1)}
    one = drawn_by(pipeline, "chain", report=told.append, **settings)
    assert sum(told) == 2 * 2
    assert one.predictions["image"].shape == (3, 2, *SIZE, 3)
    for ours, theirs in ((0, 1), (2, 0)):
        difference = one.images[ours].astype(int) - chain.images[theirs]
        assert np.abs(difference).max() <= 1
        for name in ("segmentation", "image"):
            np.testing.assert_allclose(
                one.latents[name][ours], chain.latents[name][theirs], atol=1e-4
            )


def test_the_image_of_picked_maps_is_that_of_their_latents(pipeline, maps):
    assert maps.decoded.keys() == {"segmentation"}
    with pytest.raises(ValueError, match="no image was drawn, but segmentation"):
        _ = maps.images
    picked = maps.take([2])
    drawn = drawn_by(pipeline, "controlnet", given=picked)
    assert drawn.seeds == (2,)
    expected = latents_by_hand(
        pipeline, CONTROLNET, (2,), {"segmentation": jnp.asarray(picked.latents["segmentation"])}
    )
    np.testing.assert_array_equal(drawn.latents["image"], expected["image"])
    # What was given is there, beside it.
    np.testing.assert_array_equal(drawn.maps["segmentation"], maps.maps["segmentation"][[2]])
    np.testing.assert_array_equal(drawn.recall, maps.recall[[2]])
    other = drawn_by(pipeline, "controlnet", given=maps.take([0]), seeds=(2,))
    assert np.abs(other.latents["image"] - drawn.latents["image"]).max() > 1e-3


def test_one_map_goes_with_many_seeds(pipeline, maps):
    many = drawn_by(pipeline, "controlnet", given=maps.take([1]), seeds=(1, 7), batch_size=1)
    assert many.images.shape[0] == len(many.recall) == 2
    alone = drawn_by(pipeline, "controlnet", given=maps.take([1]))
    assert np.abs(many.images[:1].astype(int) - alone.images).max() <= 1
    assert np.abs(many.images[1].astype(int) - many.images[0]).max() > 2
    again = drawn_by(pipeline, "controlnet", ["image"], given=many, batch_size=1)
    assert np.abs(again.images.astype(int) - many.images).max() <= 1


def test_the_best_come_first(maps):
    shares = np.array([[0.0, 0.2], [0.3, 0.1], [0.1, 0.4]], np.float32)
    recall = np.array([0.5, 1.0, 1.0], np.float32)
    told = dataclasses.replace(maps, scores=Scores(("ball", "box"), shares, recall, (2, 1, 0)))
    best = told.best(2)
    assert best.seeds == (2, 1)
    assert best.scores.order == (0, 1)
    np.testing.assert_array_equal(best.recall, [1, 1])
    np.testing.assert_array_equal(
        best.latents["segmentation"], maps.latents["segmentation"][[2, 1]]
    )
    assert told.take([0, 1]).scores.order == (1, 0)
    assert told.take([0]).scores.missing(0) == ["ball"]
    with pytest.raises(ValueError, match=r"draws are \[3\], expected at least one of 0 to 2"):
        told.take([3])


def test_maps_of_ones_own_are_given_as_maps_or_as_pictures(pipeline):
    classes = palette("scenes")
    labels = np.full(SIZE, 2, np.int32)
    labels[:32] = VOID
    picture = np.where(labels[..., None] == 2, classes.colours[2], classes.void_colour)
    latents = [
        drawn_by(pipeline, "controlnet", given={"segmentation": array}).latents["image"]
        for array in (labels, picture.astype(np.uint8), np.full(SIZE, 5))
    ]
    np.testing.assert_array_equal(latents[0], latents[1])
    assert np.abs(latents[2] - latents[0]).max() > 1e-4
    depth = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(64, 0)
    drawn = drawn_by(pipeline, CHAIN, given={"segmentation": labels, "depth": depth})
    assert drawn.decoded.keys() == {"image"}
    assert drawn.recall is None
    other = drawn_by(pipeline, CHAIN, given={"segmentation": labels, "depth": depth[:, ::-1]})
    assert np.abs(drawn.images.astype(int) - other.images).max() > 2


def test_layered_depth_is_drawn_for_compose_and_conquer(pipeline):
    drawn = drawn_by(pipeline, "layered")
    assert drawn.maps.keys() == {"foreground_depth", "background_depth"}
    assert drawn.maps["background_depth"].shape == (1, *SIZE)
    with pytest.raises(ValueError, match="ComposeAndConquer"):
        drawn_by(pipeline, "layered", ["image"])


class FarEnoughError(Exception):
    """What a test wants to see is there."""


def drawing_of(pipeline, monkeypatch, graph, **settings) -> Drawing:
    """Returns how the pipeline would draw."""
    made = []

    def refuse(model, drawing, *rest):
        made.append(drawing)
        raise FarEnoughError

    monkeypatch.setattr("fgdm_jax.pipeline.GraphPainter", refuse)
    with pytest.raises(FarEnoughError):
        drawn_by(pipeline, graph, **settings)
    return made[0]


def test_sizes_and_steps_of_each_variable(pipeline, monkeypatch):
    graph = [
        Factor("segmentation", num_steps=3),
        Factor("depth", ("segmentation",), size=(192, 64)),
        Factor("image", ("segmentation",), "controlnet"),
    ]
    sizes = {"size": (128, 64), "map_size": (64, 64)}
    drawing = drawing_of(pipeline, monkeypatch, graph, map_steps=5, **sizes)
    assert drawing.sizes == {"segmentation": (8, 8), "depth": (24, 8), "image": (16, 8)}
    steps = {name: table.timesteps.shape[0] for name, table in drawing.tables.items()}
    assert steps == {"segmentation": 3, "depth": 5, "image": 2}
    given = {"segmentation": np.zeros((128, 64), np.uint8)}
    drawing = drawing_of(pipeline, monkeypatch, graph, given=given, size=None)
    assert drawing.sizes == {"depth": (24, 8), "image": (16, 8)}


def test_settings_of_the_drawing(pipeline, monkeypatch):
    drawing = drawing_of(pipeline, monkeypatch, CHAIN)
    assert drawing.guidance_scales == dict.fromkeys(("segmentation", "depth", "image"), 3.0)
    assert (drawing.mode, drawing.what, drawing.conditioning_scale) == ("joint", "trained", 1.0)
    changes = {"mode": "sequential", "hand_over": "x0", "conditioning_scale": 0.5}
    drawing = drawing_of(pipeline, monkeypatch, CHAIN, map_guidance_scale=1.0, **changes)
    assert drawing.guidance_scales == {"image": 3.0}
    assert (drawing.mode, drawing.what, drawing.conditioning_scale) == ("sequential", "x0", 0.5)


def test_everything_that_is_wrong_is_told_at_once(pipeline, unchecked):
    with pytest.raises(ValueError, match="both wanted and given") as caught:
        drawn_by(
            pipeline,
            CHAIN,
            ["image", "depth"],
            given={"depth": np.zeros((64, 64, 2), np.float32), "segmentation": np.full(SIZE, 77)},
            size=(100, 64),
            seeds=(-1, 2.5),
            num_steps=0,
            guidance_scale=float("nan"),
            sampler="ddmi",
            mode="jointly",
            hand_over="noise",
            objects=["bal"],
            batch_size=0,
        )
    problems = str(caught.value).split("\n")
    for expected in (
        "unknown mode 'jointly'; did you mean 'joint'?",
        "unknown hand_over 'noise'",
        "depth is both wanted and given",
        "seeds must be whole numbers from 0 to 4294967295, got [-1, 2.5]",
        "given: depth has type float32 and shape (64, 64, 2), expected float [h w] in [0, 1]",
        "given: segmentation has labels [77], expected classes 0 to",
        "size must be (height, width), multiples of 64, got (100, 64)",
        "there is no class for 'bal'",
        "guidance_scale must be a finite number, got nan",
        "batch_size must be at least 1, got 0",
    ):
        assert any(expected in problem for problem in problems), expected


@pytest.mark.parametrize(
    ("graph", "settings", "expected"),
    [
        ("depth<image", {}, "parent 'image' has no factor"),
        ("pose", {}, "the model has no adapter_pose, which the graph needs"),
        ("image", {}, "the adapter of image sees 8 channels, but with 1 parents it would see 4"),
        ("chian", {}, "unknown variable 'chian'"),
        (MAPS, {"size": None}, "size: nothing tells it"),
        (MAPS, {"seeds": ()}, "seeds are empty"),
        (MAPS, {"sampler": "ddmi"}, "unknown sampler 'ddmi'"),
        (MAPS, {"num_steps": 0}, "the number of steps must be from 1 to 1000, got 0"),
        (MAPS, {"keep_steps": (0, 2)}, "keep_steps must be from 0 to 1, got [2]"),
        (MAPS, {"keep_steps": (1, 1)}, "keep_steps must name each step once"),
        (MAPS, {"variables": ["pose"]}, "unknown wanted variable 'pose'"),
        (MAPS, {"variables": "dpeth"}, "unknown wanted variable 'dpeth'; did you mean 'depth'?"),
        (MAPS, {"objects": "bal"}, "there is no class for 'bal'"),
        (
            MAPS,
            {"variables": ["segmentation"], "given": {"depth": np.zeros(SIZE, np.float32)}},
            "given: depth is seen by nothing that is drawn",
        ),
        (
            MAPS,
            {"given": {"segmentation": np.zeros(SIZE, np.uint8), "depth": np.zeros(SIZE)}},
            "there is nothing to draw: segmentation, depth is given",
        ),
        (MAPS, {"given": {"segmentation": np.zeros(SIZE, np.float32)}}, "expected whole numbers"),
        (
            "depth, normal<depth",
            {"given": {"depth": np.full(SIZE, 2.0, np.float32)}},
            "given: depth has values from 2 to 2, expected 0 to 1",
        ),
    ],
)
def test_what_cannot_be_drawn(pipeline, unchecked, graph, settings, expected):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        drawn_by(pipeline, graph, **settings)
    assert expected in str(caught.value)


def test_given_draws_that_do_not_fit(pipeline, maps):
    with pytest.raises(ValueError, match="there are 2 seeds for 3 given draws"):
        drawn_by(pipeline, "controlnet", given=maps, seeds=(0, 1))
    with pytest.raises(ValueError, match="there is nothing to draw: segmentation is given"):
        drawn_by(pipeline, "segmentation", given=maps)


def test_segmentations_need_a_palette(pipeline):
    without = FactorGraphDiffusion(pipeline.model, pipeline.tokenizer)
    with pytest.raises(ValueError, match="no palette tells the classes of segmentations"):
        drawn_by(without, MAPS)
    drawn = drawn_by(without, "foreground_depth")
    assert drawn.recall is None
    assert drawn.objects == ()


def test_what_is_not_finite_is_told(pipeline):
    model = pipeline.model
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, model.params["vae"])
    model = dataclasses.replace(model, params={**model.params, "vae": broken})
    other = FactorGraphDiffusion(model, pipeline.tokenizer, pipeline.palette)
    with pytest.raises(ValueError, match="not finite in float32; load the pipeline with dtype="):
        drawn_by(other, "segmentation")


def test_what_draws_were_drawn_from():
    graph = parse_graph("segmentation, depth<segmentation, image<depth, normal<image")
    assert ancestors(graph, ["image"]) == {"segmentation", "depth"}
    assert ancestors(graph, ["image", "depth"]) == {"segmentation"}
    assert ancestors(graph, ["segmentation"]) == set()


def test_names_are_those_of_the_configs_and_labels_those_of_the_data():
    assert GRAPHS == sample_fgdm.GRAPHS
    assert VOID == schema.VOID


def test_half_precision_files_are_computed_with_in_the_type_asked_for():
    for dtype in ("float32", "bfloat16"):
        pipeline = FactorGraphDiffusion.load("scenes", dtype=jnp.dtype(dtype))
        assert {leaf.dtype for leaf in jax.tree.leaves(pipeline.model.params)} == {jnp.dtype(dtype)}
