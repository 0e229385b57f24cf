"""What tests are made of: weights and inputs from formulas, tiny sizes, a denoiser that knows all.

Outputs of the original PyTorch code are stored without its weights and inputs (`tests/goldens`):
both are a function of a name and a shape, so that anyone can make them again. The generator of a
name is seeded with the CRC-32 of the name.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sd_jax.convert.component import Component
from sd_jax.convert.fresh import fresh_params
from sd_jax.convert.table import abstract_params
from sd_jax.files import LazyTensor
from sd_jax.schedule import NoiseSchedule
from sd_jax.typing import Array, DenoiseFn, Float, Params, flat_params, nested_params
from sd_jax.unet import UNetConfig

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""`jax.jit` for programs that run a few times: compiles in half the time, runs slower."""

TINY_UNET = UNetConfig(
    block_out_channels=(16, 32),
    layers_per_block=1,
    attention_levels=(True, False),
    num_heads=2,
    cross_attention_dim=24,
    norm_num_groups=8,
)
"""The smallest UNet with everything in it: both kinds of levels, a downsampler, an upsampler."""


_KERNEL_GAIN = 2.0


def _generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def formula_normal(name: str, shape: Sequence[int]) -> Float[np.ndarray, "..."]:
    """Returns standard normal values that depend on `name` and `shape` alone."""
    return _generator(name).standard_normal(tuple(shape)).astype(np.float32)


def formula_uniform(name: str, shape: Sequence[int]) -> Float[np.ndarray, "..."]:
    """Returns values uniform in [0, 1) that depend on `name` and `shape` alone."""
    return _generator(name).random(tuple(shape)).astype(np.float32)


def formula_weight(name: str, shape: Sequence[int]) -> Float[np.ndarray, "..."]:
    """Returns the weight of a PyTorch parameter; none of them is zero, zero convolutions included.

    Args:
      name: in the state dict; the ending ".weight" tells a norm's scale from a bias.
      shape: PyTorch's.
    """
    values = formula_normal(name, shape)
    if len(shape) >= 2:
        return values * np.float32(1.0 / math.sqrt(math.prod(shape[1:])))
    if name.endswith(".weight"):
        return np.float32(1.0) + np.float32(0.1) * values
    return np.float32(0.1) * values


def formula_tensors(shapes: Mapping[str, Sequence[int]]) -> dict[str, LazyTensor]:
    """Returns `formula_weight`s as the tensors of a file, for `sd_jax.convert`.

    Args:
      shapes: name in the state dict -> PyTorch's shape.
    """
    return {
        name: LazyTensor(
            name,
            tuple(shape),
            np.dtype(np.float32),
            functools.partial(formula_weight, name, tuple(shape)),
        )
        for name, shape in shapes.items()
    }


def formula_params(module: nn.Module, *inputs: Any) -> Params:
    """Returns parameters for a linen module, of which none is zero; takes no compilation.

    Args:
      module: any.
      *inputs: arguments of one call, or `jax.ShapeDtypeStruct`s of them.
    """
    shapes = [jax.ShapeDtypeStruct(item.shape, item.dtype) for item in inputs]
    params = {}
    for path, leaf in flat_params(abstract_params(module, *shapes)).items():
        values = formula_normal(path, leaf.shape)
        if len(leaf.shape) >= 2:
            values *= np.float32(1.0 / math.sqrt(math.prod(leaf.shape[:-1])))
        else:
            values *= np.float32(0.1)
            values += np.float32(path.endswith("/scale"))
        params[path] = jnp.asarray(values)
    return nested_params(params)


def random_params(
    components: Sequence[Component], config: Any, seed: int = 0, only: Collection[str] = ()
) -> tuple[Params, Any]:
    """Returns random parameters in which no layer is zero, and the sizes of what they are of.

    Zero convolutions would hide what stands behind them, so these are random too; and kernels are
    larger than new ones, so that what goes in still shows after many layers.

    Args:
      components: that there may be.
      config: sizes by component, a dataclass; None for those that are not wanted.
      seed: of the weights.
      only: names of the components wanted; all that have a size unless given.
    """
    params: dict[str, Any] = {}
    for component in components:
        size = getattr(config, component.name)
        if size is not None and (not only or component.name in only):
            flat = fresh_params(dataclasses.replace(component, zero=""), size, seed)
            params[component.name] = nested_params(
                {
                    path: array * _KERNEL_GAIN if path.endswith("kernel") else array
                    for path, array in flat.items()
                }
            )
    absent = {component.name: None for component in components if component.name not in params}
    return params, dataclasses.replace(config, **absent)


def relative_rms(actual: Any, expected: Any) -> float:
    """Returns rms(actual - expected) / rms(expected), the error in which parity is stated.

    Raises:
      ValueError: the shapes differ, or `expected` is all zeros, against which nothing is relative.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {actual.shape}, expected {expected.shape}")
    if not expected.any():
        raise ValueError("the expected values are all zero; compare with an absolute error instead")
    return float(np.sqrt(np.mean((actual - expected) ** 2) / np.mean(expected**2)))


def to_nhwc(array: Float[np.ndarray, "b c h w"]) -> Float[Array, "b h w c"]:
    """Returns a PyTorch image batch in this project's layout."""
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def oracle_denoiser(schedule: NoiseSchedule, x0: Float[Array, "b h w c"]) -> DenoiseFn:
    """Returns the perfect denoiser of a data set that holds nothing but `x0`.

    Whatever latents it is given, the noise it predicts leads back to `x0`.
    """
    alphas_cumprod = jnp.asarray(schedule.alphas_cumprod)

    def denoise(latents: Array, timesteps: Array) -> Array:
        alpha = alphas_cumprod[timesteps]
        return (latents - jnp.sqrt(alpha) * x0) / jnp.sqrt(1.0 - alpha)

    return denoise
