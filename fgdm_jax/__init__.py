"""FG-DM (arXiv:2410.21638): images drawn together with their condition maps, factor by factor."""

from fgdm_jax.denoise import factor_denoise_fn, predict_noise, predict_with_attention
from fgdm_jax.graph import VARIABLES, Factor, check_graph, sampling_order
from fgdm_jax.load import FGDMConfig, load

__all__ = [
    "VARIABLES",
    "FGDMConfig",
    "Factor",
    "check_graph",
    "factor_denoise_fn",
    "load",
    "predict_noise",
    "predict_with_attention",
    "sampling_order",
]
