"""What the page Compose is asked for: values of a browser -> a checked request."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.demo.fields import Fields
from launch.demo.models import Composing
from launch.demo.settings import Settings
from sd_jax.samplers import SAMPLERS

SAMPLER_NAMES = tuple(sorted(SAMPLERS))
PHOTO_RULES = {
    "v1": "the whole photo (v1)",
    "v2": "the photo under the mask (v2)",
    "v3": "the whole photo, then under the mask (v3)",
}
"""Of what the depth of a photo with a mask is taken, by upstream's names."""
USUAL_PHOTO_RULE = "v2"
PICTURES = ("depth", "photo", "exemplar", "mask")
"""What a layer may have."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer as it was given; None for what was not.

    Attributes:
      depth: depth or edge map.
      photo: whose depth or edges are taken.
      exemplar: whose look the layer takes.
      mask: where the layer is seen.
      gain: multiplies the depth.
      strength: of the exemplar.
    """

    depth: Path | None
    photo: Path | None
    exemplar: Path | None
    mask: Path | None
    gain: float
    strength: float


@dataclasses.dataclass(frozen=True)
class ComposeRequest:
    """A checked request.

    Attributes:
      settings: of `configs/sample.py`, without files.
      photo_rule: one of `PHOTO_RULES`.
      layers: from front to back; as many as the model takes.
    """

    settings: Mapping[str, Any]
    photo_rule: str
    layers: tuple[Layer, ...]


def value_names(num_layers: int) -> tuple[str, ...]:
    """Returns the names of what the page sends, in order.

    Args:
      num_layers: that the page shows.
    """
    names = ["prompt", "negative_prompt", "photo_rule", "height", "width", "num_images"]
    names += ["num_steps", "guidance_scale", "image_guidance_scale", "sampler", "seed"]
    for index in range(num_layers):
        names += [f"{name}_{index}" for name in (*PICTURES, "gain", "strength")]
    return tuple(names)


def read_compose_request(
    values: Mapping[str, Any], fields: Fields, settings: Settings, composing: Composing
) -> ComposeRequest:
    """Returns a request; no picture has been decoded.

    Args:
      values: by the names of `value_names`.
      fields: that reads them.
      settings: of the page.
      composing: what the model can do.

    Raises:
      RequestError: lists every value that cannot be used.
    """
    limits = settings.limits
    num_images = fields.whole("Images", values["num_images"], 1, limits.max_images)
    found: dict[str, Any] = {
        "checkpoint": settings.checkpoint,
        "dtype": settings.dtype,
        "local_condition": settings.local_condition,
        "prompt": fields.text("Prompt", values["prompt"]),
        "negative_prompt": fields.text("Negative prompt", values["negative_prompt"]),
        "height": fields.size("Height", values["height"]),
        "width": fields.size("Width", values["width"]),
        "num_images": num_images,
        "batch_size": min(num_images, limits.batch_size),
        "num_steps": fields.whole("Steps", values["num_steps"], 1, limits.max_steps),
        "guidance_scale": fields.number(
            "Guidance", values["guidance_scale"], 1, limits.max_guidance
        ),
        "image_guidance_scale": fields.number(
            "Guidance of depth and exemplars",
            values["image_guidance_scale"],
            0,
            limits.max_guidance,
        ),
        "sampler": fields.choice("Sampler", values["sampler"], SAMPLER_NAMES),
        "spacing": composing.usual.spacing,
        "seed": fields.seed(values["seed"], num_images),
    }
    rule = fields.choice("Depth of photos", values["photo_rule"], tuple(PHOTO_RULES))
    shown = min(composing.layers, limits.max_layers)
    layers = [_read_layer(index, values, fields, settings, composing) for index in range(shown)]
    nothing = Layer(None, None, None, None, 1.0, 1.0)
    layers += [nothing] * (composing.layers - shown)
    fields.check()
    return ComposeRequest(found, rule, tuple(layers))


def _read_layer(
    index: int, values: Mapping[str, Any], fields: Fields, settings: Settings, composing: Composing
) -> Layer:
    title = f"Layer {index + 1}"
    files = {
        name: fields.picture(f"{title}, {name}", values[f"{name}_{index}"]) for name in PICTURES
    }
    if files["photo"] is not None and not settings.takes_photos:
        fields.add(
            f"{title}, photo: there is no depth estimator; give a depth map, or start the page "
            "with --depth_estimator=FOLDER"
        )
    if files["photo"] is not None and files["depth"] is not None:
        fields.add(f"{title}: a depth map and a photo are both given; take one away")
    has_map = files["depth"] is not None or files["photo"] is not None
    if has_map and not composing.takes_depth:
        fields.add(f"{title}: the checkpoint has no local fuser, which takes depth maps")
    if files["exemplar"] is not None and not composing.takes_exemplars:
        fields.add(f"{title}: the checkpoint has no global fuser, which takes exemplars")
    return Layer(
        **files,
        gain=fields.number(f"{title}, depth gain", values[f"gain_{index}"], 0, 2),
        strength=fields.number(f"{title}, exemplar strength", values[f"strength_{index}"], 0, 2),
    )
