"""Values that a module needs at every denoising step but that do not depend on the timestep.

The keys and values of the context and the FDN modulation are functions of the conditions alone. A
module wraps them in `remember`; `precompute` then evaluates them once, outside the sampling loop,
and returns a variable collection that later calls of the same module read instead of recomputing:

    precomputed = precompute(unet, variables, latents, timesteps, context)
    noise = unet.apply({**variables, "precomputed": precomputed}, latents, timesteps, context)

There is one definition of the value for both ways, so that they cannot disagree. Under `jit`, dead
code elimination removes everything from the first call but what the collection needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn

COLLECTION = "precomputed"

T = TypeVar("T")


def remember(module: nn.Module, name: str, compute: Callable[[], T]) -> T:
    """Returns the remembered value `name` of `module`, or computes it (and keeps it if asked)."""
    if module.has_variable(COLLECTION, name):
        return module.get_variable(COLLECTION, name)
    value = compute()
    # `init` makes every collection mutable; remembered values are no part of the parameters.
    if module.is_mutable_collection(COLLECTION) and not module.is_initializing():
        module.put_variable(COLLECTION, name, value)
    return value


def precompute(module: nn.Module, variables: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Returns the `precomputed` collection of `module` for these arguments.

    Call it inside `jit`: only then is the rest of the forward pass removed.

    Args:
      module: any linen module; modules that remember nothing give an empty collection.
      variables: `{"params": ...}`.
      *args: the arguments of one call; arguments that the remembered values do not depend on
        (latents, timesteps) only lend their shape.
      **kwargs: likewise.
    """
    _, collections = module.apply(variables, *args, mutable=[COLLECTION], **kwargs)
    return collections.get(COLLECTION, {})
