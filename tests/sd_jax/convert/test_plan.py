"""What is taken from a checkpoint, under which spelling of the names, and what stays unused."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

import sd_jax.load
from sd_jax.convert.component import COMPONENTS
from sd_jax.convert.load import plan_loading, read_component
from sd_jax.convert.source import CheckpointError

ALL = ("unet", "vae", "text_encoder", "image_encoder", "safety_checker", "controlnet")
TEXT = {"ldm": "cond_stage_model.transformer.", "diffusers": "text_encoder/"}
EMA = {"model_ema.decay": (), "model_ema.num_updates": ()}


def averaged(name):
    return "model_ema." + name.removeprefix("model.").replace(".", "")


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_both_layouts_give_the_same_tree(layout, tiny, state, files):
    plan = plan_loading(files.unread(files.shapes_of(state(layout, *ALL)), layout), COMPONENTS)
    assert plan.configs == tiny
    assert plan.unused == ()
    for component in COMPONENTS:
        abstract = component.abstract_params(tiny[component.name])
        paths = {entry.path for entry in plan.entries[component.name]}
        assert len(paths) == len(jax.tree.leaves(abstract))


def test_weights_are_read_in_their_own_types(tmp_path, tiny, state, files):
    tensors = state("ldm", "unet", dtype=np.float16) | state("ldm", "vae")
    loaded = sd_jax.load.load(files.write(tmp_path / "sd.safetensors", tensors))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded.params["unet"])} == {"float16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded.params["vae"])} == {"float32"}
    np.testing.assert_array_equal(
        loaded.params["unet"]["conv_in"]["kernel"],
        tensors["model.diffusion_model.input_blocks.0.0.weight"].transpose(2, 3, 1, 0),
    )
    assert loaded.config.text_encoder is None
    with pytest.raises(ValueError, match=r"no text_encoder; it holds unet, vae\b"):
        loaded.require("unet", "text_encoder")


def test_heads_come_from_the_caller_or_the_folder_or_are_eight(tiny, state, files):
    shapes = files.shapes_of(state("diffusers", "unet", "controlnet"))

    def heads(num_heads=None, **hints):
        source = files.unread(shapes, "diffusers", hints={"unet": hints, "controlnet": hints})
        configs = plan_loading(source, COMPONENTS, num_heads=num_heads).configs
        assert configs["unet"].num_heads == configs["controlnet"].unet.num_heads
        return configs["unet"].num_heads

    assert heads() == 8
    assert heads(attention_head_dim=4) == 4
    assert heads(attention_head_dim=4, num_attention_heads=2) == 2
    assert heads(attention_head_dim=[16, 16]) == 16
    assert heads(num_heads=1, attention_head_dim=4) == 1


def test_groups_come_from_the_folder(state, files):
    shapes = files.shapes_of(state("diffusers", "unet", "vae", "controlnet"))
    hints = {name: {"norm_num_groups": 4} for name in ("unet", "vae", "controlnet")}
    configs = plan_loading(files.unread(shapes, "diffusers", hints=hints), COMPONENTS).configs
    assert configs["unet"].norm_num_groups == 4
    assert configs["vae"].norm_num_groups == 4
    assert configs["controlnet"].unet.norm_num_groups == 4


def test_inpainting_unet(state, files):
    shapes = files.shapes_of(state("ldm", "unet"))
    shapes["model.diffusion_model.input_blocks.0.0.weight"] = (32, 9, 3, 3)
    config = plan_loading(files.unread(shapes), COMPONENTS).configs["unet"]
    assert (config.in_channels, config.out_channels) == (9, 4)


def test_averaged_weights(tmp_path, state, files):
    plain = state("ldm", "unet")
    tensors = plain | {averaged(name): array + 1 for name, array in plain.items()}
    path = files.write(tmp_path / "sd.ckpt.safetensors", tensors)
    usual = sd_jax.load.load(path).params
    mean = sd_jax.load.load(path, use_ema=True).params
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a + 1, b), usual, mean)


def test_averaged_weights_leave_the_others_unused(state, files):
    plain = files.shapes_of(state("ldm", "unet", "vae"))
    mean = {averaged(n): shape for n, shape in plain.items() if n.startswith("model.")}
    source = files.unread(plain | mean | EMA)
    plan = plan_loading(source, COMPONENTS, use_ema=True)
    assert {entry.name for entry in plan.entries["unet"]} == set(mean)
    assert {entry.name for entry in plan.entries["vae"]} == plain.keys() - set(plan.unused)
    assert set(plan.unused) == {n for n in plain if n.startswith("model.")} | EMA.keys()
    assert set(plan_loading(source, COMPONENTS).unused) == mean.keys() | EMA.keys()


@pytest.mark.parametrize("kept", [0, 1])
def test_missing_averaged_weights_are_refused(kept, state, files):
    plain = files.shapes_of(state("ldm", "unet"))
    mean = {averaged(name): shape for name, shape in list(plain.items())[:kept]}
    message = rf"use_ema .* {len(plain) - kept} of {len(plain)} are not .*load it without use_ema"
    with pytest.raises(CheckpointError, match=message):
        plan_loading(files.unread(plain | mean), COMPONENTS, use_ema=True)


@pytest.mark.parametrize("layout", TEXT)
@pytest.mark.parametrize("inner", ["", "text_model."])
def test_old_and_new_names_of_the_text_encoder(layout, inner, tiny, state, files):
    prefix = TEXT[layout]
    shapes = {
        name.replace("text_model.", inner): shape
        for name, shape in files.shapes_of(state(layout, "text_encoder")).items()
    }
    ids = f"{prefix}{inner}embeddings.position_ids"
    source = files.unread(shapes | {ids: (1, 7)}, layout)
    plan = plan_loading(source, COMPONENTS)
    assert plan.configs == {"text_encoder": tiny["text_encoder"]}
    assert {entry.name for entry in plan.entries["text_encoder"]} == set(shapes)
    # No network uses them, but the file had them.
    assert plan.unused == (ids,)
    records = {record.name: record.path for record in plan.records()}
    assert list(records) == list(source.tensors)
    assert records[ids] is None
    embedding = f"{prefix}{inner}embeddings.token_embedding.weight"
    assert records[embedding] == "text_encoder/token_embedding/embedding"


def test_new_names_of_the_safety_checker(tiny, state, files):
    shapes = files.shapes_of(state("diffusers", "safety_checker"))
    new = {
        name.replace("vision_model.vision_model.", "vision_model."): shape
        for name, shape in shapes.items()
    }
    assert new != shapes
    plan = plan_loading(files.unread(new, "diffusers"), COMPONENTS)
    assert plan.configs == {"safety_checker": tiny["safety_checker"]}


def test_whole_clip_gives_its_image_tower(tiny, state, files):
    shapes = files.shapes_of(state("diffusers", "image_encoder"))
    other = {
        "image_encoder/text_model.embeddings.token_embedding.weight": (20, 24),
        "image_encoder/text_projection.weight": (12, 24),
        "image_encoder/logit_scale": (),
        "image_encoder/vision_model.embeddings.position_ids": (1, 5),
    }
    hints = {"image_encoder": {"vision_config": {"num_attention_heads": 3, "hidden_act": "gelu"}}}
    plan = plan_loading(files.unread(shapes | other, "diffusers", hints=hints), COMPONENTS)
    assert plan.configs["image_encoder"] == dataclasses.replace(
        tiny["image_encoder"], num_heads=3, hidden_act="gelu"
    )
    assert set(plan.unused) == set(other)


def test_autoencoder_with_its_training_state(state, files):
    shapes = files.shapes_of(state("ldm", "vae"))
    other = {"first_stage_model.loss.logvar": (), "first_stage_model.model_ema.decay": ()}
    assert set(plan_loading(files.unread(shapes | other), COMPONENTS).unused) == set(other)


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_autoencoder_attention_as_dense_layers_or_convolutions(layout, tmp_path, state, files):
    """Files of one layout have been saved with the other's ranks."""
    prefix = {"ldm": "first_stage_model.", "diffusers": "vae/"}[layout]
    usual = {name.removeprefix(prefix): array for name, array in state(layout, "vae").items()}
    other = dict(usual)
    for name, array in usual.items():
        if ("attn_1" in name or "attentions" in name) and array.ndim > 1:
            dense = array.reshape(array.shape[:2])
            other[name] = dense if array.ndim == 4 else dense[:, :, None, None]
    assert sum(other[name].shape != usual[name].shape for name in usual) == 8
    params = [
        sd_jax.load.load(files.write(tmp_path / f"{number}.safetensors", tensors)).params
        for number, tensors in enumerate((usual, other))
    ]
    jax.tree.map(np.testing.assert_array_equal, *params)


def test_missing_tensors_may_be_fresh(state, files, tmp_path):
    tensors = state("ldm", "unet")
    left_out = {"model.diffusion_model.out.2.bias", "model.diffusion_model.out.2.weight"}
    kept = {name: array for name, array in tensors.items() if name not in left_out}
    source = sd_jax.load.open_source(files.write(tmp_path / "sd.safetensors", kept))
    plan = plan_loading(source, COMPONENTS, may_be_fresh=("unet",))
    assert set(plan.fresh) == {"unet/conv_out/bias", "unet/conv_out/kernel"}
    (unet,) = (item for item in COMPONENTS if item.name == "unet")
    params = read_component(plan, unet)
    assert params["conv_out"]["kernel"].shape == (3, 3, 32, 4)
    assert np.std(params["conv_out"]["kernel"]) > 0
    np.testing.assert_array_equal(
        params["conv_in"]["bias"], tensors["model.diffusion_model.input_blocks.0.0.bias"]
    )
    with pytest.raises(CheckpointError, match=r"missing: model.diffusion_model.out.2.weight"):
        plan_loading(source, COMPONENTS)
