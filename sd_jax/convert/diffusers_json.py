"""The JSON files of a diffusers folder, written from sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sd_jax.clip import CLIPTextConfig, CLIPVisionConfig
from sd_jax.controlnet import ControlNetConfig
from sd_jax.safety_checker import SafetyCheckerConfig
from sd_jax.schedule import ScheduleConfig
from sd_jax.unet import UNetConfig
from sd_jax.vae import VAEConfig

_CLASSES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
    "safety_checker": ("stable_diffusion", "StableDiffusionSafetyChecker"),
    "controlnet": ("diffusers", "ControlNetModel"),
}


def component_json(name: str, config: Any) -> dict[str, Any]:
    """Returns config.json of a component's folder.

    Args:
      name: of the component.
      config: its sizes.
    """
    writers = {
        "unet": _unet,
        "vae": _vae,
        "text_encoder": _text,
        "image_encoder": _vision,
        "safety_checker": _safety,
        "controlnet": _controlnet,
    }
    if name not in writers:
        # diffusers does not know it; heads and groups are what no shape tells.
        content = {"_class_name": type(config).__name__.removesuffix("Config")}
        if hasattr(config, "unet"):
            content["num_attention_heads"] = config.unet.num_heads
            content["norm_num_groups"] = config.unet.norm_num_groups
        return content
    content = writers[name](config)
    library, class_name = _CLASSES[name]
    if library == "diffusers":
        return {"_class_name": class_name, **content}
    # transformers would compute in the type of the file; diffusers computes in float32 beside it.
    return {"architectures": [class_name], "dtype": "float32", **content}


def scheduler_json(schedule: ScheduleConfig) -> dict[str, Any]:
    """Returns scheduler_config.json: DDIM as in the papers."""
    return {
        "_class_name": "DDIMScheduler",
        "beta_end": schedule.beta_end,
        "beta_schedule": "scaled_linear",
        "beta_start": schedule.beta_start,
        "clip_sample": False,
        "num_train_timesteps": schedule.num_train_timesteps,
        "prediction_type": schedule.prediction_type,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }


def model_index_json(components: Iterable[str], config: UNetConfig | None) -> dict[str, Any]:
    """Returns model_index.json of a pipeline made of these components.

    Args:
      components: names of what the folder holds.
      config: sizes of the UNet; nine input channels make an inpainting pipeline.
    """
    present = set(components)
    inpainting = config is not None and config.in_channels == 9
    pipeline = "StableDiffusionInpaintPipeline" if inpainting else "StableDiffusionPipeline"
    if "controlnet" in present:
        pipeline = "StableDiffusionControlNetPipeline"
    index: dict[str, Any] = {"_class_name": pipeline, "requires_safety_checker": False}
    for name in ("unet", "vae", "text_encoder", "controlnet", "image_encoder", "safety_checker"):
        if name in present:
            index[name] = list(_CLASSES[name])
        elif name in ("safety_checker", "image_encoder"):
            index[name] = [None, None]
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    index["tokenizer"] = ["transformers", "CLIPTokenizer"]
    index["feature_extractor"] = [None, None]
    if "safety_checker" in present:
        index["requires_safety_checker"] = True
        index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    return index


def feature_extractor_json(config: CLIPVisionConfig) -> dict[str, Any]:
    """Returns preprocessor_config.json for an image tower."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "crop_size": {"height": config.image_size, "width": config.image_size},
        "size": {"shortest_edge": config.image_size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
    }


def _encoder(config: UNetConfig) -> dict[str, Any]:
    return {
        "act_fn": "silu",
        "attention_head_dim": config.num_heads,  # diffusers' name for the number of heads
        "block_out_channels": list(config.block_out_channels),
        "cross_attention_dim": config.cross_attention_dim,
        "down_block_types": [
            "CrossAttnDownBlock2D" if attention else "DownBlock2D"
            for attention in config.attention_levels
        ],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": config.in_channels,
        "layers_per_block": config.layers_per_block,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": config.norm_num_groups,
    }


def _unet(config: UNetConfig) -> dict[str, Any]:
    return {
        **_encoder(config),
        "center_input_sample": False,
        "out_channels": config.out_channels,
        "sample_size": 64,
        "up_block_types": [
            "CrossAttnUpBlock2D" if attention else "UpBlock2D"
            for attention in reversed(config.attention_levels)
        ],
    }


def _controlnet(config: ControlNetConfig) -> dict[str, Any]:
    return {
        **_encoder(config.unet),
        "conditioning_channels": config.hint_channels,
        "conditioning_embedding_out_channels": list(config.hint_block_out_channels),
        "controlnet_conditioning_channel_order": "rgb",
    }


def _vae(config: VAEConfig) -> dict[str, Any]:
    levels = len(config.block_out_channels)
    return {
        "act_fn": "silu",
        "block_out_channels": list(config.block_out_channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": config.in_channels,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers_per_block,
        "norm_num_groups": config.norm_num_groups,
        "out_channels": config.in_channels,
        "sample_size": 512,
        "scaling_factor": config.scaling_factor,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def _text(config: CLIPTextConfig) -> dict[str, Any]:
    return {
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "hidden_act": config.hidden_act,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": config.max_position_embeddings,
        "model_type": "clip_text_model",
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "pad_token_id": 49407,
        "vocab_size": config.vocab_size,
    }


def _vision(config: CLIPVisionConfig) -> dict[str, Any]:
    return {
        "hidden_act": config.hidden_act,
        "hidden_size": config.hidden_size,
        "image_size": config.image_size,
        "intermediate_size": config.intermediate_size,
        "layer_norm_eps": 1e-05,
        "model_type": "clip_vision_model",
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "patch_size": config.patch_size,
        "projection_dim": config.projection_dim,
    }


def _safety(config: SafetyCheckerConfig) -> dict[str, Any]:
    vision: Mapping[str, Any] = _vision(config.vision)
    return {
        "model_type": "clip",
        "projection_dim": config.vision.projection_dim,
        "vision_config": vision,
    }
