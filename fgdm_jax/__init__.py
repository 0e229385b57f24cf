"""FG-DM (NeurIPS 2024): a factor graph of diffusion models. Not written yet."""
