"""A Stable Diffusion of one's own, from nothing to a folder that diffusers draws with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from cnc_jax.load import CnCConfig
from configs import prior
from launch.train_request import TrainError
from launch.training import plan_run, train
from sd_jax.convert.component import COMPONENTS
from sd_jax.encoding import posterior_of
from sd_jax.load import load, open_checkpoints
from sd_jax.typing import flat_params
from tests.launch.commands import launched

SMALL = {
    "num_steps": 3,
    "warmup_steps": 1,
    "global_batch_size": 8,
    "log_every": 1,
    "eval_every": 3,
    "eval_examples": 8,
    "sample_every": 0,
    "save_every": 3,
    "writers": "json",
    "norm_groups": 4,
    "autoencoder_channels": "8,8,8",
    "maps": "depth,segmentation",
    "unet_channels": "8,8",
    "unet_attention": "1,0",
    "unet_heads": 2,
    "text_width": 16,
    "text_layers": 1,
    "image_width": 16,
    "image_layers": 1,
    "image_size": 16,
    "tower_heads": 2,
    "ema_decay": 0.0,
}


def config_of(stage: str, **settings: Any) -> Any:
    config = prior.get_config(f"stage={stage}")
    with config.unlocked():
        config.update({**SMALL, **settings})
    return config


def metrics(workdir: Path) -> list[dict[str, float]]:
    return list(map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    said = launched("make_tokenizer", f"--output={folder}", "--examples=200", "--max_length=32")
    assert "from 1000 captions" in said
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tokenizer) -> dict[str, Path]:
    """Returns a run of each stage."""
    folder = tmp_path_factory.mktemp("prior")
    paths = {stage: folder / stage for stage in prior.STAGES}
    pictures = {"sample_every": 3, "num_samples": 1, "sample_steps": 2}
    assert train(config_of("autoencoder", **pictures), str(paths["autoencoder"]))
    assert train(config_of("towers", tokenizer=str(tokenizer)), str(paths["towers"]))
    init = f"{paths['autoencoder']},{paths['towers']}"
    assert train(config_of("unet", init=init, ema_decay=0.9, **pictures), str(paths["unet"]))
    return paths


@pytest.mark.slow
def test_each_stage_tells_its_own_numbers(runs):
    for stage, name in (("autoencoder", "train/psnr"), ("towers", "train/accuracy")):
        lines = metrics(runs[stage])
        assert any(name in line for line in lines), stage
        evaluations = [line for line in lines if "eval/loss" in line]
        assert len(evaluations) == 2
        # There are no timesteps to tell it by.
        assert not any(key.startswith("eval/loss_") for line in evaluations for key in line)
    assert any("eval/loss_000_099" in line for line in metrics(runs["unet"]))
    for stage in ("autoencoder", "unet"):
        assert list((runs[stage] / "images").rglob("*.png")), stage


@pytest.mark.slow
def test_a_stage_trains_its_own_components(runs):
    start = open_checkpoints([runs["unet"] / "model"], COMPONENTS).load(CnCConfig)
    for stage, names in (("autoencoder", ["vae"]), ("towers", ["text_encoder", "image_encoder"])):
        trained = load(runs[stage]).params
        assert sorted(trained) == sorted(names)
        for name in names:
            before = open_checkpoints([runs[stage] / "model"], COMPONENTS).load(CnCConfig)
            learned = [
                not np.array_equal(value, flat_params(before.params[name])[path])
                for path, value in flat_params(trained[name]).items()
            ]
            assert sum(learned) > 0.9 * len(learned)
            # The next stage starts from what was learned.
            for path, value in flat_params(start.params[name]).items():
                np.testing.assert_array_equal(value, flat_params(trained[name])[path])


@pytest.mark.slow
def test_latents_are_scaled_to_unit_variance(runs):
    from input_pipeline.scenes import Scenes

    model = load(runs["unet"])
    assert model.config.schedule.prediction_type == "v_prediction"
    images = [Scenes(seed=1, fields=("image",)).arrays(index)["image"] for index in range(32)]
    images = np.stack(images).astype(np.float32) / 127.5 - 1
    latents = (
        posterior_of(model, {"image": jnp.asarray(images)}).mean * model.config.vae.scaling_factor
    )
    assert float(np.std(latents)) == pytest.approx(1.0, rel=0.2)


@pytest.mark.slow
def test_diffusers_draws_with_the_exported_folder(runs, tmp_path):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    arguments = (f"--checkpoint={runs['unet']}", f"--output={tmp_path / 'folder'}")
    launched("export", "--layout=diffusers", "--dtype=float16", *arguments)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        tmp_path / "folder", safety_checker=None, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        "a red ball in a meadow",
        height=64,
        width=64,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images[0]
    assert image.shape == (64, 64, 3)
    assert image.std() > 0
    assert (tmp_path / "folder" / "image_encoder" / "config.json").is_file()


@pytest.mark.slow
def test_a_run_keeps_its_settings(runs):
    config = config_of("towers", num_steps=5, schedule="constant", eval_every=0)
    with pytest.raises(TrainError, match=r"was started with other settings: .*schedule was"):
        plan_run(config, str(runs["towers"]))


def test_everything_wrong_is_told_at_once(tmp_path):
    config = config_of(
        "unet",
        maps="depht",
        image_share=0.0,
        temperature=0.0,
        unet_channels="8,9",
        unet_attention="1",
        image_patch=5,
        tokenizer=str(tmp_path / "nowhere"),
        prediction_type="sample",
        autoencoder_channels="",
        unet_heads=3,
    )
    with pytest.raises(TrainError) as caught:
        plan_run(config, str(tmp_path / "run"))
    for part in (
        "maps: unknown variable 'depht'; did you mean 'depth'?",
        "image_share must be above 0",
        "temperature must be above 0",
        "unet_channels: 9 is no multiple of norm_groups, 4",
        "unet_attention must be 0 or 1 for each of the 2 unet_channels, got '1'",
        "image_size is 16, no multiple of image_patch, 5",
        "nowhere; launch.make_tokenizer makes one",
        "prediction_type: unknown value 'sample'",
        "autoencoder_channels is empty",
        "unet_channels: 8 is no multiple of unet_heads, 3",
    ):
        assert part in str(caught.value), part


def test_other_sizes_make_another_start(tmp_path):
    first = plan_run(config_of("autoencoder"), str(tmp_path / "run"))
    assert first.start is not None
    with first.folder.held():
        first.start.write(first.folder.model)
        first.folder.write(first.settings)
    assert plan_run(config_of("autoencoder"), str(tmp_path / "run")).start is None
    wider = config_of("autoencoder", autoencoder_channels="8,16,16")
    assert plan_run(wider, str(tmp_path / "run")).start is not None


@pytest.mark.slow
def test_more_levels_than_a_picture_has_room_for(runs, tmp_path):
    deep = config_of("autoencoder", autoencoder_channels="8,8,8,8,8,8,8,8")
    with pytest.raises(TrainError, match="64x64 is no multiple of 128 on both sides"):
        plan_run(deep, str(tmp_path / "run"))
    init = f"{runs['autoencoder']},{runs['towers']}"
    levels = {"unet_channels": "8,8,8,8,8,8", "unet_attention": "0,0,0,0,0,0"}
    with pytest.raises(TrainError, match="64x64 is no multiple of 128 on both sides"):
        plan_run(config_of("unet", init=init, **levels), str(tmp_path / "run"))


@pytest.mark.slow
def test_towers_that_do_not_fit(runs, tokenizer, tmp_path):
    towers = str(runs["towers"])
    with pytest.raises(TrainError, match="tokenizer is for a new text encoder"):
        plan_run(config_of("towers", init=towers, tokenizer=str(tokenizer)), str(tmp_path / "run"))
    with pytest.raises(TrainError, match="stage towers takes no microbatches"):
        plan_run(config_of("towers", accumulation=2), str(tmp_path / "run"))
    launched(
        "export",
        *(f"--checkpoint={towers}", "--layout=diffusers", "--only=image_encoder"),
        f"--output={tmp_path / 'tower'}",
    )
    config = config_of("towers", init=str(tmp_path / "tower"), text_width=24)
    with pytest.raises(TrainError, match=r"encoder is 24 wide and .* embeddings of 16"):
        plan_run(config, str(tmp_path / "run"))


def test_what_a_stage_needs_is_named(tmp_path):
    with pytest.raises(TrainError, match=r"nothing lacks vae, text_encoder, which\s+stage unet"):
        plan_run(config_of("unet"), str(tmp_path / "run"))
    with pytest.raises(TrainError, match="stage towers draws no pictures"):
        plan_run(config_of("towers", sample_every=1), str(tmp_path / "run"))
    with pytest.raises(ValueError, match="unknown stage 'autoencode'; did you mean"):
        prior.get_config("stage=autoencode")


@pytest.mark.slow
def test_the_decoder_learns_and_latents_stay(runs, tmp_path):
    config = config_of("decoder", init=str(runs["autoencoder"]), eval_every=0)
    assert train(config, str(tmp_path / "run"))
    before = load(runs["autoencoder"])
    after = load(tmp_path / "run")
    old, new = flat_params(before.params["vae"]), flat_params(after.params["vae"])
    moved = {name for name, value in new.items() if not np.array_equal(value, old[name])}
    assert moved
    assert all(name.startswith(("decoder/", "post_quant_conv/")) for name in moved)
    with pytest.raises(TrainError, match="lacks vae, which stage decoder needs"):
        plan_run(config_of("decoder"), str(tmp_path / "other"))


def test_unets_see_maps_and_are_evaluated_on_images(tmp_path):
    for share, maps in ((0.6, ("depth", "segmentation")), (1.0, ())):
        config = config_of("unet", init="scenes-prior", image_share=share)
        data = plan_run(config, str(tmp_path / "run")).data
        assert data.config.maps == maps
        assert data.config.map_share == pytest.approx(1 - share)
        assert set(maps) <= set(data.sources[0].fields)
        captions = data.examples(16)["captions"]
        assert not any(caption.startswith(("depth of", "segm")) for caption in captions)


@pytest.mark.slow
def test_the_image_tower_learns_and_the_text_encoder_stays(runs, tmp_path):
    config = config_of("image_tower", init=str(runs["towers"]), eval_every=0)
    assert train(config, str(tmp_path / "run"))
    before, after = load(runs["towers"]), load(tmp_path / "run")
    assert set(after.params) == {"image_encoder", "text_encoder"}
    for component, moved in (("image_encoder", 0.9), ("text_encoder", 0.0)):
        old, new = (flat_params(model.params[component]) for model in (before, after))
        changed = sum(not np.array_equal(new[name], old[name]) for name in new) / len(new)
        assert changed > moved if moved else changed == 0, component
    with pytest.raises(TrainError, match="lacks text_encoder, which stage image_tower needs"):
        plan_run(config_of("image_tower"), str(tmp_path / "other"))


@pytest.mark.slow
def test_text_encoder_and_unet_learn_together(runs, tmp_path):
    init = f"{runs['autoencoder']},{runs['towers']}"
    # Without a decay, nothing moves that has no gradient.
    config = config_of("text_and_unet", init=init, eval_every=0, weight_decay=0.0)
    assert train(config, str(tmp_path / "run"))
    before, after = load(runs["towers"]), load(tmp_path / "run")
    old = flat_params(before.params["text_encoder"])
    new = flat_params(after.params["text_encoder"])
    still = {name for name in new if np.array_equal(new[name], old[name])}
    # A bias of all keys moves all logits alike, which softmax takes away.
    assert all(name.endswith("k_proj/bias") for name in still), still
    assert "unet" in after.params
    with pytest.raises(TrainError, match="text is cached, but stage text_and_unet trains"):
        plan_run(config_of("text_and_unet", init=init, text="cached"), str(tmp_path / "other"))
