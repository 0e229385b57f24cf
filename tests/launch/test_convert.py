"""launch.convert and launch.export: round trips byte for byte, surgery, and errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cnc_jax.convert import COMPONENTS
from cnc_jax.testing import tiny_config
from launch.converting import ConvertRequest, convert
from sd_jax.convert.export import export_diffusers, export_ldm
from sd_jax.convert.source import COMPONENTS_KEY, CheckpointError, open_source
from sd_jax.convert.store import open_converted
from sd_jax.convert.weights import weights_of_converted, weights_of_model
from sd_jax.files import LazyTensor, open_tensors, read_metadata, write_safetensors
from sd_jax.load import open_checkpoints
from sd_jax.schedule import ScheduleConfig
from tests.launch.commands import launch


def converted_to(tmp_path: Path, *sources: str, **options: Any) -> tuple[Path, str]:
    output = tmp_path / "converted"
    request = ConvertRequest([str(item) for item in sources], str(output), **options)
    return output, convert(request)


def assert_same_bytes(ours: dict[str, LazyTensor], theirs: dict[str, LazyTensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        other = theirs[name]
        assert (tensor.shape, tensor.dtype) == (other.shape, other.dtype), name
        assert tensor.read().tobytes() == other.read().tobytes(), name


def with_extras(path: str, output: Path, dtype: str = "float32") -> Path:
    """Writes a file again in another type, with buffers and averages that no network uses."""
    import ml_dtypes  # noqa: F401 - registers bfloat16

    tensors = {
        name: tensor.read().astype(np.dtype(dtype)) for name, tensor in open_tensors(path).items()
    }
    prefix = "model.diffusion_model."
    tensors |= {
        "model_ema." + name.removeprefix("model.").replace(".", ""): tensor + 1
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    tensors["betas"] = np.linspace(0, 1, 1000, dtype=np.float32)
    tensors["model_ema.num_updates"] = np.array(3, np.int32)
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = np.arange(77)[None]
    write_safetensors(
        output,
        [
            LazyTensor(name, array.shape, array.dtype, lambda array=array: array)
            for name, array in tensors.items()
        ],
        None,
    )
    return output


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_an_original_file_comes_back_byte_for_byte(dtype, checkpoints, tmp_path):
    source = with_extras(
        checkpoints["safetensors"]["checkpoint"], tmp_path / "source.safetensors", dtype
    )
    folder, table = converted_to(tmp_path, source, num_heads=4)
    weights = weights_of_converted(open_converted(folder, COMPONENTS))
    export_ldm(weights, COMPONENTS, tmp_path / "back.safetensors")
    assert_same_bytes(open_tensors(tmp_path / "back.safetensors"), open_tensors(source))
    assert "unet" in table
    assert "(unused)" in table


def test_a_torch_file_comes_back_byte_for_byte(checkpoints, tmp_path):
    source = checkpoints["ckpt"]["checkpoint"]
    folder, _ = converted_to(tmp_path, source, num_heads=4)
    weights = weights_of_converted(open_converted(folder, COMPONENTS))
    export_ldm(weights, COMPONENTS, tmp_path / "back.ckpt")
    assert_same_bytes(open_tensors(tmp_path / "back.ckpt"), open_tensors(source))


def test_a_diffusers_folder_comes_back_byte_for_byte(demo, tmp_path):
    folder, _ = converted_to(tmp_path, demo["checkpoint"])
    weights = weights_of_converted(open_converted(folder, COMPONENTS))
    export_diffusers(weights, COMPONENTS, tmp_path / "back")
    source = Path(demo["checkpoint"])
    assert_same_bytes(open_source(tmp_path / "back").tensors, open_source(source).tensors)
    files = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    back = {
        str(path.relative_to(tmp_path / "back"))
        for path in (tmp_path / "back").rglob("*")
        if path.is_file()
    }
    assert back == files


def test_layouts_cross_over_and_back(checkpoints, demo, tmp_path):
    folder, _ = converted_to(tmp_path, demo["checkpoint"])
    weights = weights_of_converted(open_converted(folder, COMPONENTS))
    export_ldm(weights, COMPONENTS, tmp_path / "file.safetensors")
    assert_same_bytes(
        open_tensors(tmp_path / "file.safetensors"),
        open_tensors(checkpoints["safetensors"]["checkpoint"]),
    )


def test_averaged_weights_are_taken_when_asked_for(checkpoints, tmp_path):
    source = with_extras(checkpoints["safetensors"]["checkpoint"], tmp_path / "s.safetensors")
    folder, _ = converted_to(tmp_path, source, num_heads=4, use_ema=True)
    weights = weights_of_converted(open_converted(folder, COMPONENTS))
    bias = open_tensors(source)["model.diffusion_model.out.2.bias"].read()
    np.testing.assert_array_equal(np.asarray(weights.read("unet")["conv_out/bias"]), bias + 1)
    export_ldm(weights, COMPONENTS, tmp_path / "back.safetensors")
    assert_same_bytes(open_tensors(tmp_path / "back.safetensors"), open_tensors(source))


def part_of(path: str, output: Path, prefixes: tuple[str, ...]) -> Path:
    tensors = [t for name, t in open_tensors(path).items() if name.startswith(prefixes)]
    write_safetensors(output, tensors, None)
    return output


def test_sources_complete_one_another(checkpoints, tmp_path):
    whole = checkpoints["safetensors"]["checkpoint"]
    cnc = part_of(whole, tmp_path / "a.safetensors", ("model.", "local_adapter.", "global_adapter"))
    parts = ("first_stage", "cond_stage", "image_enc")
    buffers = tuple(name for name in open_tensors(whole) if "." not in name)
    rest = part_of(whole, tmp_path / "b.safetensors", (*parts, *buffers))
    folder, _ = converted_to(tmp_path, cnc, rest, num_heads=4)
    converted = open_converted(folder, COMPONENTS)
    assert set(converted.configs) == {
        "unet", "vae", "text_encoder", "image_encoder", "local_fuser", "global_fuser",
    }  # fmt: skip
    export_ldm(weights_of_converted(converted), COMPONENTS, tmp_path / "back.safetensors")
    assert_same_bytes(open_tensors(tmp_path / "back.safetensors"), open_tensors(whole))


def test_surgery_from_stable_diffusion_and_back_together(checkpoints, tmp_path):
    whole = checkpoints["safetensors"]["checkpoint"]
    sd = part_of(whole, tmp_path / "sd.safetensors", ("model.", "first_stage", "cond_stage"))
    local, table = converted_to(tmp_path, sd, num_heads=4, surgery="init_local")
    rows = [" ".join(line.split()) for line in table.splitlines()]
    assert "local_fuser sd.safetensors 94 50 made by init_local" in rows
    assert "unet sd.safetensors 208 0" in rows
    weights = weights_of_converted(open_converted(local, COMPONENTS))
    fuser, unet = (
        weights.read("local_fuser"),
        weights_of_converted(open_converted(local, COMPONENTS)).read("unet"),
    )
    np.testing.assert_array_equal(
        fuser["down_blocks_1/resnets_0/conv1/kernel"], unet["down_blocks_1/resnets_0/conv1/kernel"]
    )
    assert not np.asarray(fuser["zero_convs_3/kernel"]).any()
    assert np.asarray(fuser["feature_extractor/layers_0/convs_0/kernel"]).any()

    output = str(tmp_path / "global")
    convert(ConvertRequest([str(sd)], output, num_heads=4, surgery="init_global"))
    both = str(tmp_path / "both")
    convert(ConvertRequest([str(local), output], both, surgery="integrate"))
    joined = open_converted(both, COMPONENTS)
    assert {"local_fuser", "global_fuser", "unet", "vae"} <= set(joined.configs)
    # As complete as upstream's own starting points: the schedule's buffers and position_ids too.
    export_ldm(weights_of_converted(joined), COMPONENTS, tmp_path / "start.safetensors")
    names = open_tensors(tmp_path / "start.safetensors").keys()
    assert names == {n for n in open_tensors(whole) if not n.startswith("image_encoder.")}


def test_a_fuser_that_surgery_replaces_is_spoken_of(checkpoints, tmp_path):
    whole = checkpoints["safetensors"]["checkpoint"]
    with pytest.warns(UserWarning, match="own local fuser is replaced by a new one"):
        converted_to(tmp_path, whole, num_heads=4, surgery="init_local")


def test_the_table_says_what_was_not_taken_and_what_no_network_uses(checkpoints, tmp_path):
    whole = Path(checkpoints["safetensors"]["checkpoint"])
    vae = part_of(str(whole), tmp_path / "vae.safetensors", ("first_stage_model.",))
    _, table = converted_to(tmp_path, whole, vae, num_heads=4)
    rows = [" ".join(line.split()) for line in table.splitlines()]
    assert "vae vae.safetensors 0 0 not taken: tiny.safetensors has one, and goes first" in rows
    (unused,) = (row for row in rows if row.startswith("(unused)"))
    assert "tiny.safetensors 14 kept for export: " in unused
    assert "betas" in unused


def test_heads_and_norm_groups_travel_in_the_file(tmp_path):
    tiny = tiny_config()
    unet = dataclasses.replace(tiny.unet, norm_num_groups=16)
    local = dataclasses.replace(tiny.local_fuser, unet=unet)
    vae = dataclasses.replace(tiny.vae, norm_num_groups=8, scaling_factor=0.5)
    configs = {"unet": unet, "local_fuser": local, "vae": vae}
    params = {
        item.name: item.abstract_params(configs[item.name])
        for item in COMPONENTS
        if item.name in configs
    }
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    weights = weights_of_model(params, configs, ScheduleConfig())
    export_ldm(weights, COMPONENTS, tmp_path / "file.safetensors")
    opened = open_checkpoints([tmp_path / "file.safetensors"], COMPONENTS)
    assert opened.configs == configs
    # What the file says travels on; heads that are asked for win.
    folder, _ = converted_to(tmp_path, tmp_path / "file.safetensors")
    assert open_converted(folder, COMPONENTS).configs == configs
    asked = open_checkpoints([tmp_path / "file.safetensors"], COMPONENTS, num_heads=2)
    assert asked.configs["unet"].num_heads == 2


def test_metadata_comes_back(checkpoints, tmp_path):
    tensors = list(open_tensors(checkpoints["safetensors"]["checkpoint"]).values())
    written = {"format": "pt", "modelspec.title": "a model"}
    write_safetensors(tmp_path / "file.safetensors", tensors, written)
    folder, _ = converted_to(tmp_path, tmp_path / "file.safetensors")
    weights = weights_of_converted(open_converted(folder, COMPONENTS))
    export_ldm(weights, COMPONENTS, tmp_path / "back.safetensors")
    assert read_metadata(tmp_path / "back.safetensors") == written


def test_damaged_metadata_is_an_error(checkpoints, tmp_path):
    tensors = list(open_tensors(checkpoints["safetensors"]["checkpoint"]).values())
    for text in ("{", "[]", '{"unet": 4}'):
        write_safetensors(tmp_path / "file.safetensors", tensors, {COMPONENTS_KEY: text})
        with pytest.raises(CheckpointError, match="export the file again"):
            open_source(tmp_path / "file.safetensors")


def test_integrate_refuses_checkpoints_of_another_stable_diffusion(checkpoints, tmp_path):
    whole = checkpoints["safetensors"]["checkpoint"]
    local = part_of(whole, tmp_path / "l.safetensors", ("model.", "local_adapter."))
    tensors = {
        name: tensor.read()
        for name, tensor in open_tensors(whole).items()
        if name.startswith(("model.", "global_adapter."))
    }
    tensors["model.diffusion_model.out.2.bias"] += 1
    write_safetensors(
        tmp_path / "g.safetensors",
        [LazyTensor(n, a.shape, a.dtype, lambda a=a: a) for n, a in tensors.items()],
        None,
    )
    with pytest.raises(ValueError, match=r"share 1 tensors that differ .unet/conv_out/bias"):
        converted_to(tmp_path, local, tmp_path / "g.safetensors", num_heads=4, surgery="integrate")
    assert not (tmp_path / "converted").exists()


def test_integrate_takes_each_fuser_from_where_it_was_trained(checkpoints, tmp_path):
    whole = checkpoints["safetensors"]["checkpoint"]
    names = {"local": "global_adapter.norm1_fg.bias", "global": "local_adapter.zero_convs.0.0.bias"}
    for part, name in names.items():
        tensors = {key: tensor.read() for key, tensor in open_tensors(whole).items()}
        # What the run did not train, and only brought along from its start.
        tensors[name] = tensors[name] + 1
        write_safetensors(
            tmp_path / f"{part}.safetensors",
            [LazyTensor(n, a.shape, a.dtype, lambda a=a: a) for n, a in tensors.items()],
            None,
        )
    paths = (tmp_path / "local.safetensors", tmp_path / "global.safetensors")
    folder, _ = converted_to(tmp_path, *paths, num_heads=4, surgery="integrate")
    weights = weights_of_converted(open_converted(folder, COMPONENTS))
    export_ldm(weights, COMPONENTS, tmp_path / "back.safetensors")
    back, original = open_tensors(tmp_path / "back.safetensors"), open_tensors(whole)
    for name in names.values():
        np.testing.assert_array_equal(back[name].read(), original[name].read())


def test_an_output_that_is_there_is_kept(demo, tmp_path):
    (tmp_path / "converted").mkdir()
    (tmp_path / "converted" / "mine").write_text("mine")
    with pytest.raises(CheckpointError, match="is there already"):
        converted_to(tmp_path, demo["checkpoint"])
    assert (tmp_path / "converted" / "mine").read_text() == "mine"
    folder, _ = converted_to(tmp_path, demo["checkpoint"], overwrite=True)
    assert not (folder / "mine").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["converted"]


def test_the_commands_themselves(demo, tmp_path):
    done = launch("convert", f"--source={demo['checkpoint']}", f"--output={tmp_path / 'converted'}")
    assert done.returncode == 0, done.stderr
    assert "text_encoder" in done.stderr
    done = launch(
        "export",
        f"--checkpoint={tmp_path / 'converted'}",
        "--layout=ldm",
        f"--output={tmp_path / 'file.safetensors'}",
    )
    assert done.returncode == 0, done.stderr
    names = open_tensors(tmp_path / "file.safetensors").keys()
    parts = ("model.diffusion_model", "first_stage_model", "cond_stage_model", "image_encoder")
    parts = (*parts, "local_adapter", "global_adapter")
    assert [part for part in parts if not any(name.startswith(f"{part}.") for name in names)] == []


def test_a_wrong_source_ends_the_command_with_one_message(tmp_path):
    (tmp_path / "file.ckpt").write_bytes(b"\x80\x02cposix\nsystem\nq\x00.")
    done = launch("convert", f"--source={tmp_path / 'file.ckpt'}", f"--output={tmp_path / 'o'}")
    assert done.returncode == 2
    assert "file.ckpt" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o").exists()
