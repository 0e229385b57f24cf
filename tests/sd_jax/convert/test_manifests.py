"""Released checkpoints by their names and shapes: every tensor has its place, and none is left."""

from __future__ import annotations

import json
import math
from pathlib import Path

import flax.traverse_util
import pytest

from cnc_jax.convert import COMPONENTS
from cnc_jax.global_fuser import GlobalFuserConfig
from cnc_jax.local_fuser import LocalFuserConfig
from sd_jax.clip import CLIPTextConfig
from sd_jax.controlnet import ControlNetConfig
from sd_jax.convert.export import tensors_in_layout
from sd_jax.convert.load import plan_loading
from sd_jax.convert.weights import Weights
from sd_jax.schedule import ScheduleConfig
from sd_jax.unet import UNetConfig
from sd_jax.vae import VAEConfig

MANIFESTS = Path(__file__).parents[2] / "manifests"
BUFFERS = "schedule_buffers"
POSITION_IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"

UNI_LOCAL = LocalFuserConfig(
    num_layers=1, condition_channels=21, stem_channels=(32, 64, 64, 128, 128)
)
RELEASED = {
    "cnc_v1": {
        "unet": UNetConfig(),
        "local_fuser": LocalFuserConfig(),
        "global_fuser": GlobalFuserConfig(),
    },
    "local_fuser_v1": {"unet": UNetConfig(), "local_fuser": LocalFuserConfig()},
    "global_fuser_v1": {"unet": UNetConfig(), "global_fuser": GlobalFuserConfig()},
    "uni_controlnet": {
        "unet": UNetConfig(),
        "local_fuser": UNI_LOCAL,
        "global_fuser": GlobalFuserConfig(num_layers=1),
    },
    "first_stage_model": {"vae": VAEConfig()},
    "cond_stage_model": {"text_encoder": CLIPTextConfig()},
    "controlnet_sd15": {"controlnet": ControlNetConfig()},
}
WHOLE = ("cnc_v1", "first_stage_model", "cond_stage_model", BUFFERS)


def read(name):
    return json.loads((MANIFESTS / f"{name}.json").read_text())


def plan_of(files, *names):
    shapes = {name: shape for part in names for name, shape in read(part).items()}
    return plan_loading(files.unread(shapes), COMPONENTS)


@pytest.mark.parametrize("name", RELEASED)
def test_every_tensor_has_its_place(files, name):
    plan = plan_of(files, name)
    assert plan.configs == RELEASED[name]
    assert set(plan.unused) <= {POSITION_IDS}
    assert plan.fresh == ()


@pytest.mark.parametrize("name", RELEASED)
def test_numbers_of_parameters(files, name):
    records = {record.name: record for record in plan_of(files, name).records()}
    shapes = read(name)
    for prefix, (tensors, parameters) in read("param_counts")[name].items():
        used = [n for n in shapes if n.startswith(f"{prefix}.") and records[n].path is not None]
        assert len(used) == tensors, prefix
        assert sum(math.prod(shapes[n]) for n in used) == parameters, prefix


def test_one_file_of_all_parts(files):
    plan = plan_of(files, *WHOLE)
    assert plan.configs == {
        **RELEASED["cnc_v1"],
        **RELEASED["first_stage_model"],
        **RELEASED["cond_stage_model"],
    }
    assert set(plan.unused) == {POSITION_IDS, *read(BUFFERS)}
    records = plan.records()
    # 1540 names, as upstream counts them.
    assert [record.name for record in records] == [n for part in WHOLE for n in read(part)]
    assert len(records) == 1540
    paths = [record.path for record in records if record.path is not None]
    assert len(paths) == len(set(paths)) == 1540 - 14


def test_weights_from_elsewhere_export_to_every_name_of_the_released_file():
    configs = {
        **RELEASED["cnc_v1"],
        **RELEASED["first_stage_model"],
        **RELEASED["cond_stage_model"],
    }
    shapes = {
        item.name: flax.traverse_util.flatten_dict(
            item.abstract_params(configs[item.name]), sep="/"
        )
        for item in COMPONENTS
        if item.name in configs
    }
    weights = Weights(configs, ScheduleConfig(), shapes, read=lambda name: {})
    tensors = tensors_in_layout(weights, COMPONENTS, "ldm")
    ours = {tensor.name: list(tensor.shape) for tensor in tensors}
    assert ours == {n: shape for part in WHOLE for n, shape in read(part).items()}
    assert {tensor.dtype.name for tensor in tensors if tensor.name == POSITION_IDS} == {"int64"}
