"""Compose and Conquer (arXiv:2401.09048): images composed from layered depth maps and exemplars."""

from cnc_jax.condition import Condition
from cnc_jax.denoise import denoise_fn, predict_noise

__all__ = ["Condition", "denoise_fn", "predict_noise"]
