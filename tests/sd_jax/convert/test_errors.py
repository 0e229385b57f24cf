"""A checkpoint that does not fit: everything that is wrong at once, and the likely cause."""

from __future__ import annotations

import pytest

import sd_jax.load
from sd_jax.convert.component import COMPONENTS
from sd_jax.convert.load import plan_loading
from sd_jax.convert.source import CheckpointError

UNET = "model.diffusion_model."
TO_K = "attn2.to_k.weight"


@pytest.fixture(scope="module")
def unet(state, files):
    """Returns names and shapes of a tiny UNet in the original layout."""
    return files.shapes_of(state("ldm", "unet"))


def refusal(files, shapes, layout="ldm"):
    with pytest.raises(CheckpointError) as caught:
        plan_loading(files.unread(shapes, layout), COMPONENTS)
    return str(caught.value)


def with_context(shapes, width):
    return {
        name: (shape[0], width) if name.endswith((TO_K, "attn2.to_v.weight")) else shape
        for name, shape in shapes.items()
    }


def test_all_problems_at_once(files, unet):
    shapes = dict(unet)
    del shapes[f"{UNET}out.2.bias"]
    del shapes[f"{UNET}middle_block.2.in_layers.0.weight"]
    shapes[f"{UNET}time_embed.0.weight"] = (128, 31)
    shapes[f"{UNET}middle_block.3.weight"] = (7,)
    message = refusal(files, shapes)
    assert "model.safetensors: cannot be loaded (4 problems)" in message
    assert f"missing: {UNET}out.2.bias (4,)" in message
    assert f"missing: {UNET}middle_block.2.in_layers.0.weight (64,)" in message
    assert f"wrong shape: {UNET}time_embed.0.weight is (128, 31), expected (128, 32)" in message
    assert f"unexpected: {UNET}middle_block.3.weight (7,)" in message


def test_problems_of_several_components(files, state):
    shapes = files.shapes_of(state("ldm", "unet", "vae", "text_encoder"))
    for name in (f"{UNET}out.0.bias", "first_stage_model.quant_conv.bias"):
        del shapes[name]
    text = "cond_stage_model.transformer.text_model."
    shapes[f"{text}final_layer_norm.bias"] = (23,)
    message = refusal(files, shapes)
    assert f"missing: {UNET}out.0.bias" in message
    assert "missing: first_stage_model.quant_conv.bias" in message
    assert f"wrong shape: {text}final_layer_norm.bias is (23,), expected (24,)" in message


def test_a_long_list_is_whole(files, state):
    shapes = files.shapes_of(state("diffusers", "unet"))
    kept = {
        name: shape for name, shape in shapes.items() if "up_blocks" not in name or "to_" in name
    }
    assert len(shapes) - len(kept) > 40
    message = refusal(files, kept, "diffusers")
    assert f"({len(shapes) - len(kept)} problems)" in message
    assert message.count("- missing: unet/up_blocks.") == len(shapes) - len(kept)


def telling_names(component, layout, shapes):
    """Returns every name whose absence changes the sizes that are told, and some others."""
    spec = component.layouts[layout]
    bare = {name.removeprefix(spec.prefix): shape for name, shape in shapes.items()}
    usual = spec.infer(bare, {})

    def changes(name):
        try:
            return spec.infer({k: v for k, v in bare.items() if k != name}, {}) != usual
        except (KeyError, IndexError):
            return True

    telling = [spec.prefix + name for name in bare if changes(name)]
    assert len(telling) > 2
    return [*telling, *list(shapes)[:: len(shapes) // 5]]


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_a_missing_tensor_is_named_even_if_sizes_are_told_from_it(files, state, component, layout):
    shapes = files.shapes_of(state(layout, component.name))
    for name in telling_names(component, layout, shapes):
        rest = {other: shape for other, shape in shapes.items() if other != name}
        message = refusal(files, rest, layout)
        assert name.removeprefix(component.layouts[layout].prefix) in message


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_no_shape_gives_another_error(files, state, component, layout):
    shapes = files.shapes_of(state(layout, component.name))
    for name in telling_names(component, layout, shapes):
        for shape in [(), (1,), (0, 0), (2, 3, 4, 5, 6)]:
            if shape != shapes[name]:
                message = refusal(files, shapes | {name: shape}, layout)
                assert name.removeprefix(component.layouts[layout].prefix) in message or (
                    "cannot be told" in message
                )


def test_a_component_without_its_first_layer_is_not_left_out(files, state):
    shapes = files.shapes_of(state("ldm", "unet", "vae"))
    del shapes[f"{UNET}input_blocks.0.0.weight"]
    assert "unet: the sizes cannot be told" in refusal(files, shapes)


def test_stable_diffusion_2(files, unet):
    shapes = {
        name: shape[:2] if ".proj_" in name and len(shape) == 4 else shape
        for name, shape in with_context(unet, 1024).items()
    }
    open_clip = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"
    message = refusal(files, shapes | {open_clip: (3072, 1024)})
    proj_in = f"{UNET}input_blocks.1.1.proj_in.weight"
    assert f"wrong shape: {proj_in} is (32, 32), expected (32, 32, 1, 1)" in message
    assert "Likely cause: this is Stable Diffusion 2.x (OpenCLIP text encoder)" in message
    assert "Likely cause: this is Stable Diffusion 2.x (cross-attention 1024 wide)" in message


def test_stable_diffusion_2_folder(files, state):
    shapes = with_context(files.shapes_of(state("diffusers", "unet", "text_encoder")), 1024)
    message = refusal(files, shapes, "diffusers")
    assert "Stable Diffusion 2.x (cross-attention 1024 wide)" in message


def test_stable_diffusion_xl(files, unet, state):
    shapes = {
        **with_context(unet, 2048),
        f"{UNET}label_emb.0.0.weight": (128, 2816),
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": (768,),
    }
    message = refusal(files, shapes)
    assert f"unexpected: {UNET}label_emb.0.0.weight (128, 2816)" in message
    assert message.count("Likely cause: this is Stable Diffusion XL;") == 1
    folder = with_context(files.shapes_of(state("diffusers", "unet")), 2048)
    folder["unet/add_embedding.linear_1.weight"] = (128, 2816)
    assert "Likely cause: this is Stable Diffusion XL;" in refusal(files, folder, "diffusers")


def test_text_encoder_of_another_width(files, unet, state):
    shapes = with_context(unet, 40) | files.shapes_of(state("ldm", "text_encoder"))
    message = refusal(files, shapes)
    assert "wrong text encoder: it is 24 wide" in message
    assert "cross-attention takes 40" in message


def test_autoencoder_of_other_channels(files, state):
    shapes = files.shapes_of(state("ldm", "unet", "vae"))
    part = "first_stage_model."
    shapes |= {
        f"{part}post_quant_conv.weight": (16, 16, 1, 1),
        f"{part}post_quant_conv.bias": (16,),
        f"{part}quant_conv.weight": (32, 32, 1, 1),
        f"{part}quant_conv.bias": (32,),
        f"{part}encoder.conv_out.weight": (32, 64, 3, 3),
        f"{part}encoder.conv_out.bias": (32,),
        f"{part}decoder.conv_in.weight": (64, 16, 3, 3),
    }
    message = refusal(files, shapes)
    assert "wrong autoencoder: 16 latent channels, but the UNet predicts 4" in message
    assert "(1 problems)" in message


@pytest.mark.parametrize(
    ("names", "cause"),
    [
        (["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"], "this is a LoRA"),
        (["unet.mid_block.attentions.0.attn1.to_q.lora_A.weight"], "this is a LoRA"),
        (["joint_blocks.0.context_block.attn.qkv.weight"], "this is a transformer model"),
        (["body.0.block1.weight", "conv_in.weight"], "this holds a T2I- or FG-DM adapter"),
        (["local_adapter.feature_extractor.pre_extractor.0.weight"], "this is Uni-ControlNet"),
        (["module.model.diffusion_model.out.2.bias"], "the names carry a `module.` prefix"),
    ],
)
def test_other_files(files, names, cause):
    message = refusal(files, dict.fromkeys(names, (4, 4)))
    assert f"no known component among its {len(names)} tensors" in message
    assert f"Likely cause: {cause}" in message


def test_uni_controlnet_needs_the_other_package(files, unet):
    # Its UNet alone is Stable Diffusion's and loads.
    uni = {"local_adapter.feature_extractor.pre_extractor.0.weight": (32, 21, 3, 3)}
    plan = plan_loading(files.unread(unet | uni), COMPONENTS)
    assert plan.unused == tuple(uni)


def test_inpainting_is_named_where_something_else_is_wrong(files, unet):
    shapes = unet | {f"{UNET}input_blocks.0.0.weight": (32, 9, 3, 3)}
    del shapes[f"{UNET}out.2.bias"]
    assert "inpainting one (9 input channels)" in refusal(files, shapes)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_files_that_are_no_checkpoint(tmp_path, content):
    path = tmp_path / "sd.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"sd\.safetensors: "):
        sd_jax.load.load(path)


def test_file_cut_short(tmp_path, state, files):
    path = files.write(tmp_path / "sd.safetensors", state("ldm", "unet"))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"sd\.safetensors: "):
        sd_jax.load.load(path)


def test_unknown_suffix(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"model\.onnx: not a checkpoint; expected a folder"):
        sd_jax.load.load(path)


def test_schedules_of_other_kinds(tmp_path, state, files):
    unet = {name.removeprefix("unet/"): a for name, a in state("diffusers", "unet").items()}
    files.write(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", unet)
    (tmp_path / "scheduler").mkdir()
    config = tmp_path / "scheduler" / "scheduler_config.json"
    config.write_text('{"beta_schedule": "linear", "prediction_type": "epsilon"}')
    with pytest.raises(CheckpointError, match=r"scheduler_config.json asks for .*'linear'"):
        sd_jax.load.load(tmp_path)
    config.write_text('{"prediction_type": "sample"}')
    with pytest.raises(CheckpointError, match="'sample'"):
        sd_jax.load.load(tmp_path)
    config.write_text("[]")
    with pytest.raises(CheckpointError, match="expected a JSON object, got list"):
        sd_jax.load.load(tmp_path)
    config.write_text(
        '{"prediction_type": "v_prediction", "num_train_timesteps": 500,'
        ' "beta_start": 0.001, "beta_end": 0.01, "beta_schedule": "scaled_linear"}'
    )
    schedule = sd_jax.load.load(tmp_path).config.schedule
    assert schedule == sd_jax.load.ScheduleConfig(500, 0.001, 0.01, "v_prediction")
