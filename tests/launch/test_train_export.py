"""A training run as files for PyTorch: what was trained, and byte for byte what was not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnc_jax
from cnc_jax.convert import COMPONENTS
from cnc_jax.load import CnCConfig
from cnc_jax.losses import STAGES
from cnc_jax.testing import random_model
from configs.cnc import get_config
from launch.train_cnc_start import plan_start
from launch.train_request import parse_request
from launch.training import train
from sd_jax.clip import CLIPTextConfig, CLIPVisionConfig
from sd_jax.convert.component import LayoutName
from sd_jax.convert.export import export_diffusers, export_ldm, tensors_in_layout
from sd_jax.convert.source import CheckpointError, open_source
from sd_jax.convert.weights import weights_of_converted, weights_of_model
from sd_jax.files import LazyTensor, open_tensors, write_safetensors
from sd_jax.testing import formula_normal, formula_tensors
from sd_jax.training.run_folder import RunFolder
from sd_jax.training.trained import open_directory
from sd_jax.typing import flat_params
from sd_jax.unet import UNetConfig
from sd_jax.vae import VAEConfig
from tests.launch.commands import launch
from tests.launch.tiny_training import ROOT, state_bytes

GOLDENS = ROOT / "tests" / "goldens" / "cnc"
NUM_HEADS = 2
SETTINGS = {
    "global_batch_size": 2,
    "num_steps": 3,
    "warmup_steps": 0,
    "optimizer": "adamw",
    "schedule": "constant",
    "ema_decay": 0.0,
    "eval_every": 0,
    "sample_every": 0,
    "save_every": 2,
    "writers": "json",
}
RUNS: dict[str, dict[str, Any]] = {
    "local": {},
    "global": {"ema_decay": 0.9},
    "joint": {},
}
"""Settings of each stage's run, whose checkpoints are of the steps 2 and 3."""

PREFIXES = {
    "local": {"local_adapter"},
    "global": {"global_adapter"},
    "joint": {"local_adapter", "global_adapter"},
}
"""Of the names of what each stage trains."""


def config_of(stage: str, **settings: Any) -> Any:
    config = get_config(f"stage={stage},scale=scenes")
    with config.unlocked():
        config.update({**SETTINGS, **settings})
    return config


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """Returns a Stable Diffusion of the smallest sizes that an original file can tell."""
    unet = UNetConfig(
        block_out_channels=(32, 64),
        layers_per_block=1,
        attention_levels=(True, False),
        num_heads=NUM_HEADS,
        cross_attention_dim=64,
    )
    tower: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 64, "num_layers": 1}
    config = CnCConfig(
        unet=unet,
        vae=VAEConfig(block_out_channels=(32, 32, 32, 32), layers_per_block=1),
        text_encoder=CLIPTextConfig(num_heads=1, **tower),
        image_encoder=CLIPVisionConfig(image_size=28, num_heads=1, projection_dim=64, **tower),
    )
    model = random_model(config)
    configs = {name: getattr(config, name) for name in model.params}
    weights = weights_of_model(model.params, configs, config.schedule)
    path = tmp_path_factory.mktemp("start") / "sd.safetensors"
    # Without metadata, as Stable Diffusion's files are.
    write_safetensors(path, tensors_in_layout(weights, COMPONENTS, "ldm"), None)
    return path


@pytest.fixture(scope="module")
def folders(start, tmp_path_factory) -> dict[str, Path]:
    """Returns a finished run of each stage."""
    root = tmp_path_factory.mktemp("runs")
    folders = {stage: root / stage for stage in RUNS}
    for stage, folder in folders.items():
        init = {"init": str(start), "num_heads": NUM_HEADS}
        if stage == "joint":
            init = {"init": f"{folders['local']},{folders['global']}"}
        assert train(config_of(stage, **init, **RUNS[stage]), str(folder))
    return folders


def exported(folder: Path, output: Path, layout: str = "ldm") -> dict[str, LazyTensor]:
    """Returns the tensors of an export, read back."""
    write: Callable[..., None] = export_ldm if layout == "ldm" else export_diffusers
    write(weights_of_converted(open_directory(folder, COMPONENTS)), COMPONENTS, output)
    return dict(open_source(output).tensors)


def bytes_of(tensors: Mapping[str, LazyTensor]) -> dict[str, tuple[Any, ...]]:
    return {name: (item.shape, item.dtype, item.read().tobytes()) for name, item in tensors.items()}


def in_torch(kernel: np.ndarray) -> np.ndarray:
    """Returns a parameter with its axes in PyTorch's order."""
    return np.ascontiguousarray(kernel.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(kernel.ndim)))


def check_trained(
    folder: Path, step: int, layout: LayoutName, found: Mapping[str, Any]
) -> set[str]:
    """Checks that all that was trained stands in a file as in a checkpoint; returns its names."""
    stored = state_bytes(folder, step)
    kept = "ema" if any(path.startswith("ema/") for path in stored) else "params"
    converted = open_directory(folder, COMPONENTS)
    names = set()
    for component in COMPONENTS:
        if component.name not in converted.configs:
            continue
        shapes = flat_params(component.abstract_params(converted.configs[component.name]))
        prefix = component.layouts[layout].prefix
        for entry in component.table(layout, converted.configs[component.name]):
            content = stored.get(f"{kept}/{component.name}/{entry.path}")
            if content is not None:
                array = np.frombuffer(content, np.float32).reshape(shapes[entry.path].shape)
                expected = in_torch(array) if entry.path.endswith("kernel") else array
                names.add(prefix + entry.name)
                assert found[prefix + entry.name] == (
                    expected.shape,
                    np.float32,
                    expected.tobytes(),
                ), entry.name
    assert len(names) == sum(path.startswith(f"{kept}/") for path in stored)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("stage", RUNS)
def test_a_file_holds_what_was_trained_and_the_start(stage, start, folders, tmp_path):
    before = bytes_of(open_tensors(start))
    newest = bytes_of(exported(folders[stage], tmp_path / "newest.safetensors"))
    trained = check_trained(folders[stage], 3, "ldm", newest)
    assert newest.keys() == before.keys() | trained
    assert {name: newest[name] for name in before} == before
    assert {name.partition(".")[0] for name in trained} == PREFIXES[stage]

    earlier = bytes_of(exported(folders[stage] / "checkpoints" / "2", tmp_path / "2.safetensors"))
    assert check_trained(folders[stage], 2, "ldm", earlier) == trained
    assert earlier.keys() == newest.keys()
    assert {name for name in newest if newest[name] != earlier[name]} <= trained
    assert any(newest[name] != earlier[name] for name in trained)


@pytest.mark.slow
def test_a_folder_of_diffusers_holds_the_same(folders, tmp_path):
    found = bytes_of(exported(folders["joint"], tmp_path / "folder", "diffusers"))
    trained = check_trained(folders["joint"], 3, "diffusers", found)
    assert {name.partition("/")[0] for name in trained} == {"local_fuser", "global_fuser"}


@pytest.mark.slow
def test_the_average_is_what_is_exported(folders, tmp_path):
    stored = state_bytes(folders["global"], 3)
    path = "global_fuser/layers_0/ff1/net_2/kernel"
    found = exported(folders["global"], tmp_path / "file.safetensors")
    tensor = found["global_adapter.ff1_fg.net.2.weight"].read()
    assert in_torch(tensor).tobytes() == stored[f"ema/{path}"]
    assert stored[f"ema/{path}"] != stored[f"params/{path}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "layout"),
    [("local", "ldm"), ("global", "ldm"), ("joint", "ldm"), ("joint", "diffusers")],
)
def test_an_export_predicts_the_same_noise(stage, layout, folders, tmp_path):
    output = tmp_path / ("file.safetensors" if layout == "ldm" else "folder")
    exported(folders[stage], output, layout)
    ours, theirs = cnc_jax.load(folders[stage]), cnc_jax.load(output)
    assert ours.config == theirs.config
    depth = formula_normal("depth", (2, 2, 64, 64, 3)) if STAGES[stage].has_depth else None
    embeddings = formula_normal("embeddings", (2, 2, 64)) if STAGES[stage].has_exemplars else None
    inputs = (
        formula_normal("latents", (2, 8, 8, 4)),
        jnp.array([40, 900]),
        formula_normal("text", (2, 5, 64)),
        cnc_jax.Condition(depth_maps=depth, exemplar_embeddings=embeddings),
    )
    predict = jax.jit(cnc_jax.predict_noise)
    noise = predict(ours, *inputs)
    np.testing.assert_array_equal(noise, predict(theirs, *inputs))
    # What was trained has a say in it.
    assert (noise != predict(cnc_jax.load(folders[stage] / "model"), *inputs)).any()


def test_a_run_without_checkpoints_is_its_start_under_the_original_names(tmp_path):
    """The names and shapes are those that the original code itself wrote."""
    shapes = json.loads((GOLDENS / "tiny_shapes.json").read_text())
    tensors = formula_tensors(shapes)
    write_safetensors(tmp_path / "cnc.safetensors", list(tensors.values()), None)
    cached = {"latents": "cached", "text": "cached", "exemplars": "cached"}
    init = {"init": str(tmp_path / "cnc.safetensors"), "num_heads": 4}
    request, problems = parse_request(config_of("joint", **init, **cached), str(tmp_path / "run"))
    assert not problems
    folder = RunFolder(request.workdir)
    plan_start(request).write(folder.model)
    folder.write({})

    found = bytes_of(exported(folder.path, tmp_path / "file.safetensors"))
    expected = bytes_of(tensors)
    assert {name: found[name] for name in expected} == expected
    # The buffers of the noise schedule are all that stands beside them.
    rest = {name: found[name][0] for name in found.keys() - expected.keys()}
    assert set(rest.values()) == {(1000,)}
    assert {"betas", "alphas_cumprod", "posterior_mean_coef2", "logvar"} <= rest.keys()


@pytest.mark.slow
def test_a_step_that_was_not_saved_is_an_error(folders):
    for load in (cnc_jax.load, lambda path: open_directory(path, COMPONENTS)):
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 1, but of \[2, 3\]"):
            load(folders["local"] / "checkpoints" / "1")


@pytest.mark.slow
def test_the_command_itself(folders, tmp_path):
    output = tmp_path / "file.safetensors"
    done = launch(
        "export", f"--checkpoint={folders['local']}", "--layout=ldm", f"--output={output}"
    )
    assert done.returncode == 0, done.stderr
    assert "wrote" in done.stderr
    ours = exported(folders["local"], tmp_path / "ours.safetensors")
    assert bytes_of(open_tensors(output)) == bytes_of(ours)

    other = tmp_path / "other.safetensors"
    missing = folders["local"] / "checkpoints" / "7"
    done = launch("export", f"--checkpoint={missing}", "--layout=ldm", f"--output={other}")
    assert done.returncode == 2
    assert "no checkpoint of step 7, but of [2, 3]" in done.stderr
    assert not other.exists()
