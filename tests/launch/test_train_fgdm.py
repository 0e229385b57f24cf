"""Runs of FG-DM through the same loop: what starts, what is refused, and what comes out."""

from __future__ import annotations

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import fgdm
from fgdm_jax.convert import COMPONENTS
from fgdm_jax.testing import random_model, smallest_config
from launch.train_fgdm_pictures import pictures
from launch.train_request import TrainError
from launch.train_run import Run
from launch.train_system import Example
from launch.training import plan_run
from sd_jax.convert.store import open_converted, save_model
from sd_jax.samplers import make_sampler
from sd_jax.schedule import make_schedule
from sd_jax.training.run_folder import RunFolder
from sd_jax.training.trained import open_directory
from sd_jax.typing import flat_params
from tests.launch.tiny_training import SETTINGS, metrics

KEY = jax.random.key(2)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """Returns a folder with a Stable Diffusion and a ControlNet, but no adapters."""
    model = random_model(smallest_config({}))
    folder = tmp_path_factory.mktemp("prior") / "model"
    sizes = {name: getattr(model.config, name) for name in model.params}
    save_model(model.params, sizes, folder, model.config.schedule)
    return folder


def plan(workdir, factor="segmentation", **settings):
    config = fgdm.get_config(f"factor={factor},scale=scenes")
    with config.unlocked():
        config.update(settings)
    return plan_run(config, str(workdir))


def problems(workdir, factor="segmentation", **settings) -> str:
    with pytest.raises(TrainError) as caught:
        plan(workdir, factor, **settings)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    ("factor", "trained", "keys"),
    [
        ("depth", ["adapter_depth/.*"], ["depth"]),
        ("image", ["adapter_image/.*"], ["segmentation", "image"]),
        (
            "chain",
            ["adapter_segmentation/.*", "adapter_depth/.*", "adapter_image/.*"],
            ["segmentation", "depth", "image"],
        ),
        (
            "layered",
            ["adapter_foreground_depth/.*", "adapter_background_depth/.*"],
            ["foreground_depth", "background_depth"],
        ),
        (
            "controlnet",
            ["adapter_segmentation/.*", "controlnet/controlnet_cond_embedding/.*"],
            ["segmentation", "image"],
        ),
    ],
)
def test_what_is_trained_and_read(tmp_path, prior, factor, trained, keys):
    plan_ = plan(tmp_path / "run", factor, init=str(prior))
    experiment = plan_.system.make_experiment(plan_.request, plan_.start.opened)
    assert list(experiment.trainable) == trained
    assert list(experiment.needs.keys) == [*keys, "input_ids"]
    assert experiment.loss.columns == tuple(key for key in keys if key != "image")


def test_new_adapters_fit_their_parents(tmp_path, prior):
    start = plan(tmp_path / "run", "chain", init=str(prior)).start
    assert {name: size.in_channels for name, size in start.new.items()} == {
        "segmentation": 4,
        "depth": 4,
        "image": 8,
    }
    said = start.write(tmp_path / "model")
    assert "adapter_segmentation, adapter_depth, adapter_image new (seed 0)" in said
    written = open_converted(tmp_path / "model", COMPONENTS)
    params = flat_params(written.read("adapter_image"))
    zero = [path for path in params if "zero_convs" in path]
    assert zero
    assert not any(np.asarray(params[path]).any() for path in zero)


def test_new_adapters_translate_the_text_if_asked(tmp_path, prior):
    start = plan(tmp_path / "run", "depth", init=str(prior), adapter_text=6).start
    sizes = start.new["depth"]
    width = start.opened.configs["unet"].cross_attention_dim
    assert (sizes.text_dim, sizes.text_channels) == (width, 6)
    start = plan(tmp_path / "run", "depth", init=str(prior), adapter_text=0).start
    assert start.new["depth"].text_dim is None


def test_new_adapters_have_the_blocks_asked_for(tmp_path, prior):
    for count in (1, 2):
        start = plan(tmp_path / "run", "depth", init=str(prior), adapter_layers=count).start
        assert start.new["depth"].layers_per_level == count


def test_adapters_remember_which_latents_of_their_parents_they_saw(tmp_path, prior):
    start = plan(tmp_path / "run", "chain", init=str(prior), parent_latents="clean").start
    assert {name: size.clean_parents for name, size in start.new.items()} == {
        "segmentation": False,
        "depth": True,
        "image": True,
    }
    assert "from now on" not in start.write(tmp_path / "model")
    for latents, words, is_clean in (
        ("", None, True),
        ("clean", None, True),
        ("noisy", "latents of t - 1", False),
        ("clean", "clean latents", True),
    ):
        init = {"init": str(tmp_path / "model"), "parent_latents": latents}
        said = plan(tmp_path / "again", "chain", **init).start.write(tmp_path / "other")
        written = open_converted(tmp_path / "other", COMPONENTS).configs
        for name in ("adapter_depth", "adapter_image"):
            assert (f"{name} sees {words} of its parents from now on" in said) == bool(words)
            assert written[name].clean_parents == is_clean
        assert "from now on" in said or words is None
        assert "adapter_segmentation sees" not in said
        shutil.rmtree(tmp_path / "model")
        shutil.move(tmp_path / "other", tmp_path / "model")
    assert (
        not plan(tmp_path / "new", "chain", init=str(prior), parent_latents="")
        .start.new["image"]
        .clean_parents
    )


def test_settings_are_listed_together(tmp_path, prior):
    found = problems(
        tmp_path / "run",
        init=str(prior),
        graph="segmentaton, image<depth",
        adapter="timed",
        parent_latents="clear",
        null_parents=1.5,
        adapter_layers=0,
        adapter_text=-1,
        distill_every=0,
        learning_rate=-1.0,
    )
    for expected in (
        "did you mean 'segmentation'",
        "parent 'depth' has no factor",
        "did you mean 'time'",
        "did you mean 'clean'",
        "null_parents must be a probability",
        "adapter_layers must be at least 1",
        "adapter_text must be at least 0",
        "distill_every must be at least 1",
        "learning_rate",
    ):
        assert expected in found, expected


def test_what_cannot_be_trained_and_what_is_missing(tmp_path, prior):
    assert "no factor 'pose' to train" in problems(tmp_path, init=str(prior), trained="pose")
    assert "is no factor; write VARIABLE" in problems(tmp_path, init=str(prior), graph="a<<b")
    config = dataclasses.replace(smallest_config({}), controlnet=None)
    model = random_model(config)
    sizes = {name: getattr(config, name) for name in model.params}
    save_model(model.params, sizes, tmp_path / "sd", config.schedule)
    found = problems(tmp_path / "run", "controlnet", init=str(tmp_path / "sd"))
    assert "lack controlnet" in found


def test_an_adapter_of_other_parents_is_refused(tmp_path, prior):
    model = random_model(smallest_config({"image": 2}), only=("adapter_image",))
    sizes = {"adapter_image": model.config.adapter_image}
    save_model(model.params, sizes, tmp_path / "adapter", model.config.schedule)
    found = problems(tmp_path / "run", "image", init=f"{tmp_path / 'adapter'},{prior}")
    assert "the adapter of image sees 8 channels, but with 1 parents it would see 4" in found


def test_two_factors_learn_and_leave_the_prior_alone(tmp_path, prior):
    settings = {
        **SETTINGS,
        "init": str(prior),
        "trained": "segmentation,image",
        "num_steps": 10,
        "save_every": 5,
        "eval_every": 5,
        "eval_examples": 4,
        "sample_every": 10,
        "num_samples": 1,
        "sample_steps": 2,
        "distill_every": 5,
    }
    workdir = tmp_path / "run"
    plan_ = plan(workdir, "image", **settings)
    with plan_.folder.held(), Run(plan_) as run:
        assert run._experiment.loss.config.adapter_image.clean_parents
        assert run.train()
    settings = RunFolder(workdir).settings()
    assert settings is not None
    assert settings["palette"] == "scenes"
    distances = metrics(workdir, "train/distance_segmentation")
    assert [step for step, value in distances.items() if value > 1e-9] == [5, 10]
    for name in ("segmentation", "image"):
        assert len(metrics(workdir, f"train/loss_{name}")) == 10
    assert metrics(workdir, "eval/loss").keys() == {0, 5, 10}
    assert list((workdir / "images").rglob("*.png"))
    before, after = open_converted(prior, COMPONENTS), open_directory(workdir, COMPONENTS)
    for name in ("unet", "vae", "text_encoder"):
        ours, theirs = flat_params(after.read(name)), flat_params(before.read(name))
        assert all(np.array_equal(ours[path], theirs[path]) for path in theirs)
    assert after.configs["adapter_image"].clean_parents
    start = open_converted(workdir / "model", COMPONENTS)
    for name in ("adapter_segmentation", "adapter_image"):
        ours, theirs = flat_params(after.read(name)), flat_params(start.read(name))
        moved = [path for path in theirs if not np.array_equal(ours[path], theirs[path])]
        # Behind a convolution at zero nothing learns before that has left it.
        assert any("zero_convs" in path for path in moved)
        assert len(moved) > len(theirs) / 2


def test_another_graph_starts_from_another_model(tmp_path, prior):
    first = plan(tmp_path / "run", "depth", init=str(prior))
    with first.folder.held():
        first.start.write(first.folder.model)
        first.folder.write(first.settings)
    assert plan(tmp_path / "run", "depth", init=str(prior), accumulation=2).start is None
    for settings in ({"factor": "sketch"}, {"factor": "depth", "adapter": "plain"}):
        assert plan(tmp_path / "run", init=str(prior), **settings).start is not None


def test_files_are_found_under_the_names_of_their_variables(tmp_path, prior):
    missing = f"depth={tmp_path}/depth.pth,{prior}"
    found = problems(tmp_path / "run", init=missing, dtype="float23")
    assert f"init: there is no file or folder {tmp_path}/depth.pth" in found
    assert str(prior) not in found


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("(", "is no regular expression"), ("attn9", "no attention matches layers='attn9'")],
)
def test_layers_that_cannot_be_compared(tmp_path, prior, layers, expected):
    assert expected in problems(tmp_path / "run", init=str(prior), distill_layers=layers)
    assert not (tmp_path / "run").exists()


def test_pictures_leave_out_what_the_data_lacks(tmp_path, prior):
    plan_ = plan(tmp_path / "run", "image", init=str(prior))
    experiment = plan_.system.make_experiment(plan_.request, plan_.start.opened)
    model = random_model(smallest_config({"image": 1}))
    experiment = dataclasses.replace(experiment, config=model.config)
    table = make_sampler("ddim", make_schedule(model.config.schedule), np.array([501, 1]))
    batch = {
        "segmentation": -jnp.ones((1, 64, 64, 3)),
        "image": jnp.zeros((1, 64, 64, 3)),
        "text_embeddings": jnp.zeros((1, 77, 16)),
    }
    rows = {}
    for present in (False, True):
        there = jnp.array([[present]])
        example = Example(
            {**batch, "present": there}, "a ball", jax.random.split(KEY, 1), table, None
        )
        rows[present] = pictures(plan_.request.config, experiment, model, example)
    assert [picture.label for picture in rows[True]] == ["image of: a ball", "image of the data"]
    # Black is not the same as nothing, which is zeros in the latents.
    assert (rows[True][0].pixels != rows[False][0].pixels).any()
