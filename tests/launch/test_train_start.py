"""How a run starts: what is told before step 1, and what one that was refused may try next."""

from __future__ import annotations

import numpy as np
import pytest

from cnc_jax.convert import COMPONENTS
from cnc_jax.losses import STAGES
from configs import cnc
from launch.training import plan_run
from sd_jax.training.partition import split_params
from sd_jax.training.trained import open_directory
from sd_jax.typing import flat_params
from tests.launch.tiny_training import metrics, train, write_start

PARTS = ("unet", "vae", "text_encoder", "local_fuser")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "model"
    write_start(folder, PARTS)
    return folder


def restored(path, name):
    """Parameters of a component by path."""
    converted = open_directory(path, COMPONENTS)
    component = next(item for item in COMPONENTS if item.name == name)
    return flat_params(converted.read(name, component.abstract_params(converted.configs[name])))


def plan(workdir, stage="local", **settings):
    config = cnc.get_config(f"stage={stage},scale=scenes")
    with config.unlocked():
        config.update(settings)
    return plan_run(config, str(workdir))


def test_everything_is_compiled_and_told_before_the_first_step(model, tmp_path):
    settings = {"num_steps": 2, "sizes": "64x64,64x128", "accumulation": 2, "save_every": 0}
    settings |= {"eval_every": 2, "eval_examples": 3}
    output = train(tmp_path, "local", init=model, **settings)
    parts = ["a step of 64x128: ready", "a step of 64x64: ready", "evaluation: ready", "step 1/2"]
    places = [output.index(part) for part in parts]
    assert places == sorted(places)
    assert "local_fuser as it is there, trained further" in output
    assert metrics(tmp_path, "eval/loss").keys() == {0, 2}
    # The last state is saved even so.
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]
    assert "is at step 2 of 2: all steps" in train(tmp_path, "local", init=model, **settings)


def test_a_run_without_checkpoints_may_be_tried_in_any_other_way(model, tmp_path):
    first = plan(tmp_path / "run", init=str(model))
    assert first.start is not None
    with first.folder.held():
        first.start.write(first.folder.model)
        first.folder.write(first.settings)
    again = plan(tmp_path / "run", init=str(model), accumulation=2, dtype="bfloat16")
    assert again.start is None
    other = plan(tmp_path / "run", init=str(model), seed=3)
    assert other.start is not None
    with other.folder.held():
        other.start.write(other.folder.model)


def test_a_run_with_checkpoints_keeps_its_settings(model, tmp_path):
    first = plan(tmp_path / "run", init=str(model))
    with first.folder.held():
        first.start.write(first.folder.model)
        first.folder.write(first.settings)
    (first.folder.checkpoints / "10").mkdir(parents=True)
    with pytest.raises(ValueError, match="seed was 0 and is 3") as caught:
        plan(tmp_path / "run", init=str(model), seed=3)
    assert "data_order" not in str(caught.value)
    with pytest.warns(UserWarning, match="goes on with other settings: seed was 0 and is 3"):
        plan(tmp_path / "run", init=str(model), seed=3, accept_changes=True)
    with pytest.warns(UserWarning, match="init is 'elsewhere' and is not read"):
        plan(tmp_path / "run", init="elsewhere")


def test_three_layers_of_depth_are_trained_on_scenes(tmp_path):
    model = tmp_path / "base"
    write_start(model, ("unet", "vae", "text_encoder"))
    settings = {"num_steps": 2, "num_layers": 3, "sample_every": 2, "num_samples": 1}
    train(tmp_path / "run", "local", init=model, sample_steps=1, **settings)
    before = restored(tmp_path / "run" / "model", "local_fuser")
    after = restored(tmp_path / "run", "local_fuser")
    moved = {name for name, value in after.items() if not np.array_equal(value, before[name])}
    # Each layer has a stem of its own, and each of them learns.
    for layer in range(3):
        assert any(f"_{layer}/" in name for name in moved), layer
    assert list((tmp_path / "run" / "images").rglob("*.png"))


@pytest.mark.parametrize("multiple", [1, 3])
def test_a_new_global_fuser_is_as_wide_as_asked_for(tmp_path, multiple):
    parts = tmp_path / "parts"
    write_start(parts, ("unet", "vae", "text_encoder", "image_encoder"))
    start = plan(tmp_path, "global", init=str(parts), hidden_multiple=multiple).start
    start.write(tmp_path / "model")
    sizes = open_directory(tmp_path / "model", COMPONENTS).configs["global_fuser"]
    assert sizes.hidden_multiple == multiple


def test_a_layer_is_added_to_a_fuser_of_two(model, tmp_path):
    settings = {"num_steps": 2, "num_layers": 3, "warmup_steps": 0}
    said = train(tmp_path / "run", "layers", init=model, **settings)
    assert "by extend_local" in said
    start = restored(tmp_path / "run" / "model", "local_fuser")
    after = restored(tmp_path / "run", "local_fuser")
    moved = {name for name, value in after.items() if not np.array_equal(value, start[name])}
    new = tuple(f"feature_extractor/{name}" for name in ("layers_", "extractors_0/"))
    assert {name for name in after if name.startswith(new[1])} <= moved
    assert all(name.startswith(new) for name in moved)
    before = restored(model, "local_fuser")
    for name, value in before.items():
        if not name.startswith(new):
            np.testing.assert_array_equal(after[name], value)


@pytest.mark.parametrize("stage", ["joint", "beside"])
def test_fusers_of_two_runs_are_joined(tmp_path, stage):
    shared = ("unet", "vae", "text_encoder", "image_encoder")
    parts = {name: tmp_path / name for name in ("local_fuser", "global_fuser")}
    for name, folder in parts.items():
        write_start(folder, (*shared, name))
    start = plan(tmp_path, stage, init=",".join(map(str, parts.values()))).start
    assert "by integrate" in start.write(tmp_path / "model")
    for name, folder in parts.items():
        before, after = (restored(path, name) for path in (folder, tmp_path / "model"))
        assert all(np.array_equal(after[path], before[path]) for path in before)
    trained, _ = split_params(
        {name: restored(folder, name) for name, folder in parts.items()}, STAGES[stage].trainable
    )
    assert trained.keys() == ({"global_fuser"} if stage == "beside" else parts.keys())


def test_layers_that_nothing_has_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="num_layers is 3, but the local fuser of init has 2"):
        plan(tmp_path, init=str(model), num_layers=3)
    with pytest.raises(ValueError, match="num_layers is 4, but data sets have two layers"):
        plan(tmp_path, init=str(model), num_layers=4)
    with pytest.raises(ValueError, match="num_layers is 3, but data sets have two layers"):
        plan(tmp_path, init=str(model), num_layers=3, local_condition="canny")
