"""Runs that cannot start say everything that is wrong before anything slow begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs import cnc
from launch.train_request import TrainError
from launch.training import plan_run
from tests.launch.tiny_training import write_start


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "model"
    write_start(folder, ("unet", "vae", "text_encoder"))
    return folder


def plan(tmp_path, arg="stage=local,scale=scenes", **settings):
    config = cnc.get_config(arg)
    with config.unlocked():
        config.update(settings)
    return plan_run(config, str(tmp_path / "run"))


def problems(tmp_path, arg="stage=local,scale=scenes", **settings) -> list[str]:
    with pytest.raises(TrainError) as caught:
        plan(tmp_path, arg, **settings)
    assert not (tmp_path / "run").exists()
    return caught.value.problems


def test_a_good_plan_writes_nothing(tmp_path, model):
    plan(tmp_path, init=str(model))
    assert list(tmp_path.iterdir()) == []


def test_settings_are_listed_together(tmp_path):
    found = problems(
        tmp_path,
        dtype="float3",
        remat="layer",
        num_epochs=2.0,
        accumulation=3,
        drop_caption=1.5,
        sizes="64x60",
        data="nowhere",
        weights="1,x",
        writers="json,tensorbord",
        profile_steps="9-3",
        flip=2.0,
        learning_rate=-1.0,
        ema_decay=1.0,
        hidden_multiple=0,
    )
    text = "\n".join(found)
    for expected in (
        "did you mean 'float32'",
        "did you mean 'layers'",
        "num_steps is 1000 and num_epochs 2.0",
        "3 microbatches (accumulation) do not divide",
        "drop_caption must be a probability",
        "64x60",
        "data: there is no folder nowhere",
        "weights must be numbers",
        "did you mean 'tensorboard'",
        "profile_steps must be FIRST-LAST",
        "flip is 2.0",
        "learning_rate",
        "ema_decay",
        "hidden_multiple must be at least 1",
    ):
        assert expected in text, expected


def test_files_are_listed_together(tmp_path):
    found = problems(tmp_path, init=str(tmp_path / "sd.ckpt"), fsdp=3, data_parallel=1)
    assert len(found) == 2
    assert "sd.ckpt" in "\n".join(found)
    assert "device" in "\n".join(found)


def test_no_checkpoint(tmp_path):
    assert "init is empty" in problems(tmp_path)[0]


@pytest.mark.parametrize(
    ("stage", "missing"),
    [("joint", "local_fuser, global_fuser, image_encoder"), ("global", "image_encoder")],
)
def test_what_a_stage_lacks(tmp_path, model, stage, missing):
    (problem,) = problems(tmp_path, f"stage={stage},scale=scenes", init=str(model))
    assert f"lack {missing}" in problem
    assert "they hold" in problem


def test_fields_that_shards_lack(tmp_path, model):
    from configs.prepare import get_config
    from launch.preparing import prepare

    config = get_config("dataset=scenes")
    with config.unlocked():
        config.update({"output": str(tmp_path / "shards"), "limit": 2, "num_shards": 1})
    prepare(config)
    (problem,) = problems(
        tmp_path, init=str(model), data=str(tmp_path / "shards"), text="cached", latents="cached"
    )
    assert "lacks the fields" in problem
    for field in ("text_embeddings", "latent_mean", "latent_logvar"):
        assert field in problem


def test_a_workdir_that_is_something_else(tmp_path, model):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"format": "other", "version": 3}')
    with pytest.raises(TrainError, match="no record of a run of this version"):
        plan(tmp_path, init=str(model))


@pytest.mark.parametrize(
    ("arg", "hint"),
    [
        ("stage=lokal", "did you mean 'local'"),
        ("scale=papr", "did you mean 'paper'"),
        ("stages=local", "did you mean 'stage'"),
        ("condition=cany", "did you mean 'canny'"),
    ],
)
def test_arguments_of_the_config(arg, hint):
    with pytest.raises(ValueError, match=hint):
        cnc.get_config(arg)


@pytest.mark.parametrize("stage", cnc.STAGES)
@pytest.mark.parametrize("scale", cnc.SCALES)
@pytest.mark.parametrize("condition", cnc.CONDITIONS)
def test_every_config_builds(stage, scale, condition):
    config = cnc.get_config(f"stage={stage},scale={scale},condition={condition}")
    assert config.stage == stage
    assert (config.num_steps > 0) != (config.num_epochs > 0)


def test_scenes_show_exemplars_with_fewer_captions():
    drops = {
        (stage, scale): (config.drop_caption, config.dropout)
        for stage in ("local", "global", "joint", "beside")
        for scale in ("scenes", "paper")
        for config in [cnc.get_config(f"stage={stage},scale={scale}")]
    }
    assert drops.pop(("global", "scenes")) == (0.5, False)
    for stage in ("joint", "beside"):
        assert drops.pop((stage, "scenes")) == (0.3, False)
    assert set(drops.values()) == {(0.1, True)}


def test_the_papers_recipe():
    for stage, epochs in (("local", 28), ("global", 24), ("joint", 9)):
        config = cnc.get_config(f"stage={stage}")
        assert config.num_epochs == epochs
        assert config.global_batch_size == 32
        assert config.sizes == "512x512"
        assert (config.optimizer, config.learning_rate, config.weight_decay) == (
            "adamw",
            1e-5,
            0.01,
        )
        assert (config.drop_caption, config.drop_condition) == (0.1, 0.1)


def test_a_rate_that_decays_over_epochs(tmp_path, model):
    settings = {"init": str(model), "schedule": "cosine", "num_steps": 0, "num_epochs": 1.0}
    assert plan(tmp_path, **settings).data.num_steps == 1_000_000 / 32
    (problem,) = problems(tmp_path, **settings, warmup_steps=40_000)
    assert "num_steps" in problem
