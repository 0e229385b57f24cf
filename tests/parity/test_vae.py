"""The autoencoder against diffusers' AutoencoderKL."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sd_jax.load
from sd_jax.vae import AutoencoderKL, decode_latents, encode_images

pytestmark = pytest.mark.parity

OLD_NAMES = {
    "to_q": "query",
    "to_k": "key",
    "to_v": "value",
    "to_out.0": "proj_attn",
}


@pytest.fixture(scope="module")
def vae(diffusers_models, tmp_path_factory, torch):
    """Returns torch's model and the folder that it was saved to."""
    model = diffusers_models.vae(seed=3, scaling_factor=0.3)
    # Spread the log-variances beyond both of their bounds.
    model.quant_conv.bias[4:] += torch.tensor([-60.0, 0.0, 0.0, 50.0])
    folder = tmp_path_factory.mktemp("vae")
    model.save_pretrained(folder)
    return model, folder


def test_encoded_moments(vae, rng, apply, to_torch, assert_close):
    model, folder = vae
    loaded = sd_jax.load.load(folder)
    images = rng.uniform(-1, 1, size=(2, 24, 40, 3)).astype(np.float32)
    posterior = apply(
        AutoencoderKL(loaded.config.vae), loaded.params["vae"], images, method="encode"
    )
    theirs = model.encode(to_torch(images)).latent_dist
    assert_close(posterior.mean, theirs.mean)
    assert_close(posterior.log_variance, theirs.logvar)
    assert theirs.logvar.min() == -30
    assert theirs.logvar.max() == 20
    assert_close(
        encode_images(loaded.config.vae, loaded.params["vae"], jnp.asarray(images)),
        theirs.mean * 0.3,
    )


def test_decoded_image(vae, rng, to_torch, assert_close):
    model, folder = vae
    loaded = sd_jax.load.load(folder)
    latents = rng.normal(size=(2, 6, 10, 4)).astype(np.float32)
    ours = decode_latents(loaded.config.vae, loaded.params["vae"], jnp.asarray(latents))
    theirs = model.decode(to_torch(latents) / 0.3).sample
    assert theirs.abs().max() > 1
    assert_close(ours, theirs.clamp(-1, 1))


def test_old_names_of_the_attention(vae, tmp_path, weights_of):
    _, folder = vae
    tensors = load_file(weights_of(folder))
    renamed = {}
    for name, tensor in tensors.items():
        for new, old in OLD_NAMES.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
        renamed[name] = tensor
    assert len(renamed.keys() - tensors.keys()) == 16
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file(renamed, tmp_path / "diffusion_pytorch_model.safetensors")
    new, old = sd_jax.load.load(folder), sd_jax.load.load(tmp_path)
    assert new.config == old.config
    for part in ("encoder", "decoder"):
        ours = old.params["vae"][part]["mid_block"]["attentions_0"]["attention"]
        same = new.params["vae"][part]["mid_block"]["attentions_0"]["attention"]
        for layer in ("to_q", "to_k", "to_v", "to_out_0"):
            np.testing.assert_array_equal(ours[layer]["kernel"], same[layer]["kernel"])
            np.testing.assert_array_equal(ours[layer]["bias"], same[layer]["bias"])
