"""What the page is started with."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much one request, and all of them together, may ask for.

    Attributes:
      max_size: of height and width.
      max_images: of one request.
      max_draws: sets of maps of one request.
      max_steps: of the sampler.
      max_guidance: largest guidance scale.
      max_layers: that the page shows.
      max_letters: of a prompt.
      batch_size: images sampled at once.
      max_waiting: requests that wait while another computes.
      max_upload_bytes: of a file.
      max_pixels: of a picture that is given, told from its header before it is decoded.
      kept_requests: folders of earlier requests that stay.
      kept_uploads: uploaded files that stay.
    """

    max_size: int = 1024
    max_images: int = 12
    max_draws: int = 20
    max_steps: int = 100
    max_guidance: float = 20.0
    max_layers: int = 4
    max_letters: int = 2000
    batch_size: int = 4
    max_waiting: int = 8
    max_upload_bytes: int = 20 * 10**6
    max_pixels: int = 25 * 10**6
    kept_requests: int = 40
    kept_uploads: int = 100


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of the whole page.

    Attributes:
      checkpoint: of the page Compose, as `--config.checkpoint` of configs/sample.py takes it.
      fgdm_checkpoint: of the page Draw, as that of configs/sample_fgdm.py.
      graph: of factors, beside those of `configs.sample_fgdm.GRAPHS`; empty for none.
      depth_estimator: folder, or empty.
      local_condition: what the local fuser was trained with: `depth` or `canny`.
      workdir: absolute; nothing is written elsewhere.
      dtype: of the parameters and of the sampling.
      size: of images at first; 0 takes what suits the model.
      limits: of requests.
    """

    checkpoint: str
    fgdm_checkpoint: str
    graph: str
    depth_estimator: str
    local_condition: str
    workdir: Path
    dtype: str
    size: int
    limits: Limits

    @property
    def takes_photos(self) -> bool:
        """Whether the local fuser's maps can be made of photos."""
        return self.local_condition == "canny" or bool(self.depth_estimator)
