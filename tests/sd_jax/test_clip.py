from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from sd_jax.clip import CLIPTextConfig, CLIPTextModel, encode_text
from sd_jax.convert.component import TEXT_ENCODER
from sd_jax.convert.load import plan_loading, read_component
from sd_jax.convert.source import Source
from sd_jax.testing import formula_normal, formula_params, formula_tensors, quick_jit, relative_rms

TINY = CLIPTextConfig(
    vocab_size=30,
    max_position_embeddings=6,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=2,
)


encode_tiny = quick_jit(lambda params, ids: encode_text(TINY, params, ids))


@pytest.fixture(scope="module")
def tiny_params():
    return formula_params(CLIPTextModel(TINY), jnp.zeros((1, 6), jnp.int32))


@pytest.mark.parity
def test_full_size_equals_the_original(golden, tmp_path):
    prefix = TEXT_ENCODER.layouts["ldm"].prefix
    shapes = {
        f"{prefix}{entry.name}": entry.shape
        for entry in TEXT_ENCODER.table("ldm", CLIPTextConfig())
    }
    source = Source(tmp_path / "clip.safetensors", "ldm", formula_tensors(shapes))
    plan = plan_loading(source, (TEXT_ENCODER,))
    assert plan.configs["text_encoder"] == CLIPTextConfig()
    params = read_component(plan, TEXT_ENCODER)
    theirs = golden("clip_text")
    encode = quick_jit(lambda params, ids: encode_text(CLIPTextConfig(), params, ids))
    outputs = encode(params, theirs["input_ids"].astype(np.int32))
    assert relative_rms(outputs[:, :16], theirs["last_hidden_state_16tokens"]) <= 1e-5
    assert relative_rms(outputs[:, -1], theirs["last_token"]) <= 1e-5


def test_a_token_sees_none_of_the_later_ones(tiny_params):
    ids = jnp.array([[1, 2, 3, 4, 5, 6]])
    outputs = encode_tiny(tiny_params, ids)
    changed = encode_tiny(tiny_params, ids.at[0, 3].set(20))
    np.testing.assert_allclose(outputs[:, :3], changed[:, :3], atol=1e-6)
    assert (np.abs(outputs - changed)[:, 3:].max(axis=-1) > 1e-3).all()


def test_long_prompts_are_encoded_in_chunks(tiny_params):
    ids = jnp.asarray(formula_normal("ids", (2, 12)) * 1000).astype(jnp.int32) % 30
    together = encode_tiny(tiny_params, ids)
    assert together.shape == (2, 12, 16)
    apart = [encode_tiny(tiny_params, half) for half in jnp.split(ids, 2, axis=1)]
    np.testing.assert_allclose(together, jnp.concatenate(apart, axis=1), atol=1e-6)


def test_short_prompts_are_encoded_as_they_are(tiny_params):
    ids = jnp.array([[1, 2, 3, 4, 5, 6]])
    short = encode_tiny(tiny_params, ids[:, :4])
    np.testing.assert_allclose(short, encode_tiny(tiny_params, ids)[:, :4], atol=1e-6)


def test_a_part_of_a_chunk_is_refused(tiny_params):
    with pytest.raises(ValueError, match="8 token ids are no multiple of 6"):
        encode_text(TINY, tiny_params, jnp.zeros((1, 8), jnp.int32))
