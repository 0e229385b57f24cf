"""Which draws show what was asked for, as `fgdm_jax.scores` counts it, for a request."""

from __future__ import annotations

import numpy as np

from fgdm_jax.scores import Scores, score_draws, unscored
from launch.draw_request import DrawRequest


def score(request: DrawRequest, segmentations: np.ndarray | None) -> Scores:
    """Returns the scores of all draws.

    Args:
      request: for what was asked for.
      segmentations: pictures in [-1, 1], [draw h w 3], or None if none are drawn.
    """
    if segmentations is None or not request.scores:
        return unscored(request.objects, len(request.seeds))
    return score_draws(segmentations, request.objects, request.palette)
