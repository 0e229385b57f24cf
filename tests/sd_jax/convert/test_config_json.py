"""Sizes go to JSON and come back equal; what is not as written is refused by name."""

from __future__ import annotations

import json

import pytest

from cnc_jax.global_fuser import GlobalFuserConfig
from cnc_jax.load import CnCConfig
from cnc_jax.local_fuser import LocalFuserConfig
from sd_jax.clip import CLIPTextConfig, CLIPVisionConfig
from sd_jax.controlnet import ControlNetConfig
from sd_jax.convert.config_json import from_json, to_json
from sd_jax.safety_checker import SafetyCheckerConfig
from sd_jax.schedule import ScheduleConfig
from sd_jax.unet import UNetConfig
from sd_jax.vae import VAEConfig

# No value is a default, so that none can come from there.
UNET = UNetConfig(9, 8, (32, 64), 1, (True, False), 3, 24, 16)
CONFIGS = [
    UNET,
    VAEConfig(1, 3, (8, 16), 1, 4, 0.5),
    CLIPTextConfig(20, 7, 24, 32, 2, 3, "gelu"),
    CLIPVisionConfig(16, 8, 24, 32, 1, 2, 12, "gelu"),
    SafetyCheckerConfig(CLIPVisionConfig(16), 2, 1),
    ControlNetConfig(UNET, 4, (1, 2, 3)),
    LocalFuserConfig(UNET, 3, 1, (2, 3), (4, 5)),
    GlobalFuserConfig(3, 24, 5, 6, (0.0, 0.5)),
    ScheduleConfig(10, 0.1, 0.2, "v_prediction"),
    CnCConfig(ScheduleConfig(5), unet=UNET, global_fuser=GlobalFuserConfig(1)),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_round_trip(config):
    content = json.loads(json.dumps(to_json(config)))
    back = from_json(type(config), content)
    assert back == config
    assert type(back) is type(config)
    hash(back)  # sizes are static arguments of jit
    assert from_json(type(config), to_json(config)) == config


def test_whole_numbers_may_stand_for_others():
    assert from_json(VAEConfig, {"scaling_factor": 1}) == VAEConfig(scaling_factor=1.0)


@pytest.mark.parametrize(
    ("config_class", "content", "message"),
    [
        (UNetConfig, {"heads": 3, "depth": 1}, "UNetConfig has no field depth, heads; known are"),
        (UNetConfig, {"num_heads": "8"}, r"UNetConfig.num_heads is '8', expected int"),
        (UNetConfig, {"num_heads": 8.0}, r"UNetConfig.num_heads is 8.0, expected int"),
        (UNetConfig, {"num_heads": True}, r"UNetConfig.num_heads is True, expected int"),
        (UNetConfig, {"num_heads": None}, r"UNetConfig.num_heads is None, expected int"),
        (UNetConfig, {"block_out_channels": 32}, r"block_out_channels is 32, expected tuple"),
        (UNetConfig, {"block_out_channels": [32, "x"]}, r"block_out_channels is 'x', expected int"),
        (UNetConfig, {"attention_levels": [1]}, r"attention_levels is 1, expected bool"),
        (GlobalFuserConfig, {"dropout": [0.1]}, r"dropout is \[0.1\], expected tuple"),
        (VAEConfig, {"scaling_factor": "0.1"}, r"scaling_factor is '0.1', expected float"),
        (ScheduleConfig, {"prediction_type": "sample"}, r"prediction_type is 'sample', expected"),
        (ControlNetConfig, {"unet": [1]}, r"ControlNetConfig.unet is \[1\], expected UNetConfig"),
        (ControlNetConfig, {"unet": {"x": 1}}, r"UNetConfig has no field x"),
        (CnCConfig, {"unet": 1}, r"CnCConfig.unet is 1, expected UNetConfig"),
    ],
)
def test_what_does_not_fit_is_named(config_class, content, message):
    with pytest.raises(ValueError, match=message):
        from_json(config_class, content)
