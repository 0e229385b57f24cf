"""Compose and Conquer (arXiv:2401.09048): images composed from layered depth maps and exemplars."""

from cnc_jax.condition import Condition
from cnc_jax.denoise import denoise_fn, predict_noise
from cnc_jax.load import CnCConfig, load

__all__ = ["CnCConfig", "Condition", "denoise_fn", "load", "predict_noise"]
