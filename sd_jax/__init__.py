"""Stable Diffusion 1.x in JAX: the parts that Compose and Conquer and FG-DM share."""
