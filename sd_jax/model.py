"""A loaded model: parameters and sizes, as one pytree that jitted functions take as an argument."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct

from sd_jax.clip import CLIPTextConfig, CLIPVisionConfig
from sd_jax.controlnet import ControlNetConfig
from sd_jax.safety_checker import SafetyCheckerConfig
from sd_jax.schedule import ScheduleConfig
from sd_jax.typing import Params
from sd_jax.unet import UNetConfig
from sd_jax.vae import VAEConfig


@dataclasses.dataclass(frozen=True)
class StableDiffusionConfig:
    """Sizes of the components that a checkpoint holds; None where it lacks one.

    Attributes:
      schedule: noise schedule of training.
      unet: noise prediction.
      vae: images <-> latents.
      text_encoder: CLIP's text tower.
      image_encoder: CLIP's image tower, for exemplars.
      safety_checker: the image filter that Stable Diffusion 1.x folders carry.
      controlnet: residuals from a hint image.
    """

    schedule: ScheduleConfig = ScheduleConfig()
    unet: UNetConfig | None = None
    vae: VAEConfig | None = None
    text_encoder: CLIPTextConfig | None = None
    image_encoder: CLIPVisionConfig | None = None
    safety_checker: SafetyCheckerConfig | None = None
    controlnet: ControlNetConfig | None = None


@flax.struct.dataclass
class Model:
    """Parameters by component, and their sizes.

    Attributes:
      params: {"unet": ..., "vae": ..., ...}, in the types that the file has.
      config: static; a change of it compiles anew.
    """

    params: Params
    config: Any = flax.struct.field(pytree_node=False)

    def require(self, *components: str) -> None:
        """Checks that the checkpoint held these components.

        Raises:
          ValueError: some are missing.
        """
        missing = [name for name in components if name not in self.params]
        if missing:
            raise ValueError(
                f"the checkpoint has no {', '.join(missing)}; it holds "
                f"{', '.join(sorted(self.params)) or 'nothing'}. Convert it together with a file "
                "that has them (launch.convert --source=A,B)"
            )
