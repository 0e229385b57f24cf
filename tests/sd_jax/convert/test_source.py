"""Files and folders of all forms are opened as one flat set of full names."""

from __future__ import annotations

import json

import numpy as np
import pytest

import sd_jax.load
from sd_jax.convert.component import COMPONENTS
from sd_jax.convert.load import plan_loading
from sd_jax.convert.source import CheckpointError, open_source

CLASSES = {
    "unet": {"_class_name": "UNet2DConditionModel"},
    "vae": {"_class_name": "AutoencoderKL"},
    "controlnet": {"_class_name": "ControlNetModel"},
    "text_encoder": {"architectures": ["CLIPTextModel"]},
    "image_encoder": {"architectures": ["CLIPVisionModelWithProjection"]},
    "safety_checker": {"architectures": ["StableDiffusionSafetyChecker"]},
}
# In order of preference.
FILES = {
    "vae": (
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.bin.index.json",
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.fp16.bin",
    ),
    "text_encoder": (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "model.fp16.safetensors",
        "model.safetensors.index.fp16.json",
        "pytorch_model.fp16.bin",
    ),
}


def bare(tensors, prefix):
    assert all(name.startswith(prefix) for name in tensors)
    return {name.removeprefix(prefix): array for name, array in tensors.items()}


def write_as(name, folder, tensors, files, number=0):
    """Writes tensors under a name of any kind; all hold their kind's number in a tensor."""
    tensors = tensors | {"kind": np.array(number)}
    folder.mkdir(exist_ok=True)
    if name.endswith(".json"):
        kind = "bin" if ".bin" in name else "safetensors"
        shards = {}
        for half, names in enumerate([list(tensors)[::2], list(tensors)[1::2]]):
            shard = f"{name.split('.')[0]}-{number}-0000{half + 1}-of-00002.{kind}"
            write_as(shard, folder, {key: tensors[key] for key in names}, files, number)
            shards |= dict.fromkeys(names, shard)
        # Each shard has the number too; one of the two is enough.
        index = {"metadata": {}, "weight_map": shards | {"kind": shard}}
        (folder / name).write_text(json.dumps(index))
    elif name.endswith(".bin"):
        torch = pytest.importorskip("torch")
        torch.save({key: torch.from_numpy(array) for key, array in tensors.items()}, folder / name)
    else:
        files.write(folder / name, tensors)


@pytest.mark.parametrize("component", CLASSES)
@pytest.mark.parametrize("named_by", ["config", "place"])
def test_folder_of_one_component(tmp_path, tiny, state, files, component, named_by):
    tensors = bare(state("diffusers", component), f"{component}/")
    folder = tmp_path if named_by == "config" else tmp_path / component
    files.write(folder / "model.safetensors", tensors)
    if named_by == "config":
        (folder / "config.json").write_text(json.dumps(CLASSES[component]))
    source = open_source(tmp_path)
    assert source.layout == "diffusers"
    assert source.bare == (f"{component}/" if named_by == "config" else "")
    assert set(source.tensors) == {f"{component}/{name}" for name in tensors}
    assert plan_loading(source, COMPONENTS).configs == {component: tiny[component]}


@pytest.mark.parametrize(
    ("layout", "component", "prefix"),
    [
        ("ldm", "controlnet", "control_model."),
        ("ldm", "unet", "model.diffusion_model."),
        ("ldm", "vae", "first_stage_model."),
        *(("diffusers", component, f"{component}/") for component in CLASSES),
    ],
)
def test_bare_file_of_one_component(tmp_path, tiny, state, files, layout, component, prefix):
    tensors = bare(state(layout, component), prefix)
    source = open_source(files.write(tmp_path / "x.safetensors", tensors))
    assert (source.layout, source.bare) == (layout, prefix)
    plan = plan_loading(source, COMPONENTS)
    assert plan.configs == {component: tiny[component]}
    assert plan.unused == ()


def test_bare_file_of_a_text_encoder_without_its_prefix(tmp_path, tiny, state, files):
    tensors = bare(state("diffusers", "text_encoder"), "text_encoder/text_model.")
    source = open_source(files.write(tmp_path / "model.safetensors", tensors))
    configs = plan_loading(source, COMPONENTS).configs
    assert configs == {"text_encoder": tiny["text_encoder"]}


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_bare_controlnet_equals_the_one_with_a_prefix(tmp_path, state, files, layout):
    tensors = state(layout, "controlnet")
    prefix = {"ldm": "control_model.", "diffusers": "controlnet/"}[layout]
    alone = files.write(tmp_path / "alone.safetensors", bare(tensors, prefix))
    loaded = sd_jax.load.load(alone)
    name = {"ldm": "input_hint_block.14", "diffusers": "controlnet_cond_embedding.conv_out"}
    np.testing.assert_array_equal(
        loaded.params["controlnet"]["controlnet_cond_embedding"]["conv_out"]["bias"],
        tensors[f"{prefix}{name[layout]}.bias"],
    )
    if layout == "ldm":
        whole = sd_jax.load.load(files.write(tmp_path / "whole.safetensors", tensors))
        assert whole.config == loaded.config


@pytest.mark.parametrize("component", FILES)
def test_preference_among_files(tmp_path, state, files, component):
    tensors = bare(state("diffusers", component), f"{component}/")
    for number, name in reversed(list(enumerate(FILES[component]))):
        write_as(name, tmp_path / component, tensors, files, number)
        opened = open_source(tmp_path).tensors
        assert opened[f"{component}/kind"].read() == number, name
        assert len(opened) == len(tensors) + 1


def test_half_precision_is_read_where_there_is_nothing_else(tmp_path, state, files):
    tensors = bare(state("diffusers", "vae", dtype=np.float16), "vae/")
    files.write(tmp_path / "vae" / "diffusion_pytorch_model.fp16.safetensors", tensors)
    kernel = sd_jax.load.load(tmp_path).params["vae"]["quant_conv"]["kernel"]
    assert kernel.dtype == np.float16


def test_folder_knows_its_tokenizer_scheduler_and_hints(tmp_path, state, files):
    for component in ("unet", "vae"):
        tensors = bare(state("diffusers", component), f"{component}/")
        files.write(tmp_path / component / "model.safetensors", tensors)
    (tmp_path / "unet" / "config.json").write_text('{"attention_head_dim": 4}')
    for name in ("tokenizer", "scheduler", "feature_extractor"):
        (tmp_path / name).mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"beta_end": 0.02}')
    (tmp_path / "model_index.json").write_text("{}")
    source = open_source(tmp_path)
    assert source.tokenizer == tmp_path / "tokenizer"
    assert source.scheduler == {"beta_end": 0.02}
    assert source.hints == {"unet": {"attention_head_dim": 4}, "vae": {}}
    assert plan_loading(source, COMPONENTS).configs["unet"].num_heads == 4


def test_training_checkpoint(tmp_path, tiny, state):
    torch = pytest.importorskip("torch")
    tensors = state("ldm", "unet", "vae")
    weights = {name: torch.from_numpy(array) for name, array in tensors.items()}
    path = tmp_path / "sd.ckpt"
    torch.save({"epoch": 3, "global_step": 70, "state_dict": weights}, path)
    loaded = sd_jax.load.load(path)
    assert (loaded.config.unet, loaded.config.vae) == (tiny["unet"], tiny["vae"])
    np.testing.assert_array_equal(
        loaded.params["unet"]["conv_out"]["bias"], tensors["model.diffusion_model.out.2.bias"]
    )


def test_single_file_has_no_tokenizer(tmp_path, state, files):
    source = open_source(files.write(tmp_path / "sd.safetensors", state("ldm", "vae")))
    assert (source.tokenizer, source.scheduler, source.hints, source.bare) == (None, {}, {}, "")


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ("{}", "no class"),
        ('{"_class_name": "AutoencoderTiny"}', "AutoencoderTiny"),
        ('{"architectures": ["T5EncoderModel"]}', "T5EncoderModel"),
    ],
)
def test_folder_of_an_unknown_class(tmp_path, state, files, config, found):
    files.write(tmp_path / "model.safetensors", bare(state("diffusers", "vae"), "vae/"))
    (tmp_path / "config.json").write_text(config)
    message = rf"config\.json: tells none of the known classes \(found {found}\); expected one of"
    with pytest.raises(CheckpointError, match=message):
        open_source(tmp_path)


@pytest.mark.parametrize("config", ["", "{", "[1]", "\x00"])
def test_broken_config_is_named(tmp_path, state, files, config):
    tensors = bare(state("diffusers", "vae"), "vae/")
    files.write(tmp_path / "vae" / "model.safetensors", tensors)
    path = tmp_path / "vae" / "config.json"
    path.write_text(config)
    with pytest.raises(CheckpointError, match=r"vae.config\.json: (not readable|expected a JSON)"):
        open_source(tmp_path)


def test_places_without_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint here; expected a converted directory"):
        open_source(tmp_path)
    with pytest.raises(CheckpointError, match="nowhere: no such file or folder"):
        open_source(tmp_path / "nowhere")
