"""The training loop: one step, one loop, checkpoints; knows neither paper."""
