"""Progress of a running sampler, reported from inside the compiled program."""

from __future__ import annotations

from collections.abc import Callable

import jax

from sd_jax.typing import Array, DenoiseFn


def with_progress(denoise: DenoiseFn, report: Callable[[], object]) -> DenoiseFn:
    """Returns `denoise`, which then calls `report()` on the host after each evaluation.

    Args:
      denoise: any DenoiseFn.
      report: for example `tqdm.tqdm(total=steps).update`. It is part of the compiled program: pass
        one that stays the same from call to call, or every call compiles anew.
    """

    def denoise_reported(latents: Array, timesteps: Array) -> Array:
        noise = denoise(latents, timesteps)
        # The dependence on the noise makes the report come after the work, not before it.
        jax.debug.callback(lambda _: report(), noise[(0,) * noise.ndim])
        return noise

    return denoise_reported
