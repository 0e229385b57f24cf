"""Tables of CLIP's towers and of the safety checker, which all layouts take from transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sd_jax.clip import CLIPTextConfig, CLIPVisionConfig
from sd_jax.convert.blocks import LEAF, count, nested
from sd_jax.convert.ldm import Shapes
from sd_jax.safety_checker import SafetyCheckerConfig

_LAYER = {
    **{
        f"self_attn/{name}": f"self_attn.{name}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj")
    },
    "layer_norm1": "layer_norm1",
    "layer_norm2": "layer_norm2",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}

# Both towers of the released models have heads of this width.
_HEAD_DIM = 64


def text_modules(config: CLIPTextConfig) -> dict[str, str]:
    """Returns the module names of a CLIPTextModel, with its `text_model.` prefix."""
    layers = {
        f"layers_{index}": (f"text_model.encoder.layers.{index}", _LAYER)
        for index in range(config.num_layers)
    }
    return nested(
        {
            "token_embedding": ("text_model.embeddings.token_embedding", LEAF),
            "position_embedding": ("text_model.embeddings.position_embedding", LEAF),
            "final_layer_norm": ("text_model.final_layer_norm", LEAF),
            **layers,
        }
    )


TEXT_ALIASES: tuple[tuple[str, str], ...] = (
    (r"((?:embeddings|encoder|final_layer_norm)\..*)", r"text_model.\1"),
)
"""transformers 5 writes a CLIPTextModel without its prefix."""


def infer_text(shapes: Shapes, hints: Mapping[str, Any]) -> CLIPTextConfig:
    """Returns the sizes of a text tower; `hints` is its config.json, if there is one."""
    vocab_size, width = shapes["text_model.embeddings.token_embedding.weight"]
    return CLIPTextConfig(
        vocab_size=vocab_size,
        max_position_embeddings=shapes["text_model.embeddings.position_embedding.weight"][0],
        hidden_size=width,
        intermediate_size=shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        num_layers=count(shapes, "text_model.encoder.layers.{}."),
        num_heads=hints.get("num_attention_heads", max(1, width // _HEAD_DIM)),
        hidden_act=hints.get("hidden_act", "quick_gelu"),
    )


def vision_modules(config: CLIPVisionConfig) -> dict[str, str]:
    """Returns the module names of a CLIPVisionModelWithProjection."""
    layers = {
        f"layers_{index}": (f"vision_model.encoder.layers.{index}", _LAYER)
        for index in range(config.num_layers)
    }
    return {
        "class_embedding": "vision_model.embeddings.class_embedding",
        **nested(
            {
                "patch_embedding": ("vision_model.embeddings.patch_embedding", LEAF),
                "position_embedding": ("vision_model.embeddings.position_embedding", LEAF),
                # transformers' own spelling
                "pre_layrnorm": ("vision_model.pre_layrnorm", LEAF),
                "post_layernorm": ("vision_model.post_layernorm", LEAF),
                "visual_projection": ("visual_projection", LEAF),
                **layers,
            }
        ),
    }


def infer_vision(shapes: Shapes, hints: Mapping[str, Any], prefix: str = "") -> CLIPVisionConfig:
    """Returns the sizes of an image tower; `hints` is its config.json, if there is one."""
    hints = hints.get("vision_config", hints)  # of a whole CLIPModel, or of a safety checker
    model = f"{prefix}vision_model"
    width, _, patch_size, _ = shapes[f"{model}.embeddings.patch_embedding.weight"]
    positions = shapes[f"{model}.embeddings.position_embedding.weight"][0]
    layer = f"{model}.encoder.layers."
    return CLIPVisionConfig(
        image_size=round((positions - 1) ** 0.5) * patch_size,
        patch_size=patch_size,
        hidden_size=width,
        intermediate_size=shapes[f"{layer}0.mlp.fc1.weight"][0],
        num_layers=count(shapes, layer + "{}."),
        num_heads=hints.get("num_attention_heads", max(1, width // _HEAD_DIM)),
        projection_dim=shapes["visual_projection.weight"][0],
        hidden_act=hints.get("hidden_act", "quick_gelu"),
    )


def safety_modules(config: SafetyCheckerConfig) -> dict[str, str]:
    """Returns the module names of a StableDiffusionSafetyChecker."""
    own = (
        "concept_embeds",
        "concept_embeds_weights",
        "special_care_embeds",
        "special_care_embeds_weights",
    )
    tower = {
        f"vision_model/{path}": name if path == "visual_projection" else f"vision_model.{name}"
        for path, name in vision_modules(config.vision).items()
    }
    return {**{name: name for name in own}, **tower}


SAFETY_ALIASES: tuple[tuple[str, str], ...] = (
    (
        r"vision_model\.((?:embeddings|encoder|pre_layrnorm|post_layernorm)\..*)",
        r"vision_model.vision_model.\1",
    ),
)
"""transformers 5 writes a CLIPVisionModel inside another model without its inner prefix."""


def infer_safety(shapes: Shapes, hints: Mapping[str, Any]) -> SafetyCheckerConfig:
    """Returns the sizes of a safety checker; `hints` is its config.json, if there is one."""
    return SafetyCheckerConfig(
        vision=infer_vision(shapes, hints, "vision_model."),
        num_concepts=shapes["concept_embeds"][0],
        num_special_concepts=shapes["special_care_embeds"][0],
    )
