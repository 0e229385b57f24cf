"""Array types and the few callables that every package of the project shares.

Shapes stand in signatures as jaxtyping strings (`Float[Array, "batch height width 4"]`). jaxtyping
is checked by the tests and is documentation at run time, so a machine without it still runs every
model: the stand-in below then takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import flax.linen as nn
import flax.traverse_util
import jax
from jax import Array

try:
    from jaxtyping import Bool, Float, Int, Num, PRNGKeyArray, UInt8
except ModuleNotFoundError:

    class _AnyShape:
        """Accepts `Float[Array, "batch height"]` and means nothing by it."""

        def __class_getitem__(cls, item: object) -> Any:
            del item
            return Any

    Bool = Float = Int = Num = UInt8 = _AnyShape  # type: ignore[assignment, misc]
    PRNGKeyArray = Any  # type: ignore[assignment, misc]

Params: TypeAlias = Mapping[str, Any]
"""A (nested) tree of arrays, as linen's `init` makes it and `convert` loads it."""

Dtype: TypeAlias = Any
"""Anything that `jnp.dtype` accepts."""

DenoiseFn: TypeAlias = Callable[[Array, Array], Array]
"""(latents [batch height width channels], timesteps []) -> predicted noise, shaped like latents."""

KeyArray: TypeAlias = jax.Array
"""A typed key of `jax.random.key`, or an old-style uint32 one."""


def flat_params(params: Params) -> dict[str, Any]:
    """Returns the leaves by path, joined by "/"."""
    return flax.traverse_util.flatten_dict(params, sep="/")


def nested_params(flat: Mapping[str, Any]) -> Params:
    """Returns the tree of leaves by path; undoes `flat_params`."""
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def apply_module(module: nn.Module, variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Returns the output of `module.apply`, without the variables that its type allows for.

    Args:
      module: any linen module.
      variables: `{"params": ...}` and what else it reads.
      *args: of one call.
      **kwargs: likewise, and `method`; not `mutable`, with which variables are returned too.
    """
    return module.apply(variables, *args, **kwargs)


__all__ = [
    "Array",
    "Bool",
    "DenoiseFn",
    "Dtype",
    "Float",
    "Int",
    "KeyArray",
    "Num",
    "PRNGKeyArray",
    "Params",
    "apply_module",
    "flat_params",
    "nested_params",
]
