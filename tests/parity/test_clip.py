"""CLIP's towers and the safety checker against transformers and diffusers."""

from __future__ import annotations

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sd_jax.load
from sd_jax.clip import CLIPTextModel, CLIPVisionModel
from sd_jax.safety_checker import flag_images

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def text(clip_models, tmp_path_factory):
    """Returns torch's text tower and the folder that it was saved to."""
    model = clip_models.text(seed=4)
    folder = tmp_path_factory.mktemp("text")
    model.save_pretrained(folder)
    return model, folder


def text_states(folder, input_ids, apply):
    loaded = sd_jax.load.load(folder)
    return apply(
        CLIPTextModel(loaded.config.text_encoder), loaded.params["text_encoder"], input_ids
    )


@pytest.mark.parametrize("num_tokens", [77, 9])
def test_text_states(text, num_tokens, rng, apply, to_torch, assert_close):
    model, folder = text
    input_ids = rng.integers(0, 60, size=(2, num_tokens)).astype(np.int32)
    theirs = model(to_torch(input_ids).long()).last_hidden_state
    assert_close(text_states(folder, input_ids, apply), theirs)


def test_text_states_with_gelu(clip_models, tmp_path, rng, apply, to_torch, assert_close):
    model = clip_models.text(seed=5, hidden_act="gelu", num_attention_heads=6)
    model.save_pretrained(tmp_path)
    input_ids = rng.integers(0, 60, size=(2, 12)).astype(np.int32)
    theirs = model(to_torch(input_ids).long()).last_hidden_state
    assert_close(text_states(tmp_path, input_ids, apply), theirs)


@pytest.mark.parametrize("prefix", ["", "text_model."])
@pytest.mark.parametrize("with_position_ids", [False, True])
def test_text_names_of_all_versions_are_one(text, tmp_path, prefix, with_position_ids, weights_of):
    _, folder = text
    names = {
        prefix + name.removeprefix("text_model."): tensor
        for name, tensor in load_file(weights_of(folder)).items()
    }
    if with_position_ids:
        names[f"{prefix}embeddings.position_ids"] = np.arange(77)[None]
    shutil.copy(folder / "config.json", tmp_path)
    save_file(names, tmp_path / "model.safetensors")
    one, other = sd_jax.load.load(folder), sd_jax.load.load(tmp_path)
    assert one.config == other.config
    ours, theirs = (model.params["text_encoder"] for model in (one, other))
    assert ours.keys() == theirs.keys()
    for table in ("token_embedding", "position_embedding"):
        np.testing.assert_array_equal(ours[table]["embedding"], theirs[table]["embedding"])
    for layer in range(3):
        np.testing.assert_array_equal(
            ours[f"layers_{layer}"]["mlp"]["fc1"]["kernel"],
            theirs[f"layers_{layer}"]["mlp"]["fc1"]["kernel"],
        )


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_image_embeddings(clip_models, hidden_act, tmp_path, rng, apply, to_torch, assert_close):
    model = clip_models.vision(seed=6, hidden_act=hidden_act)
    model.save_pretrained(tmp_path)
    loaded = sd_jax.load.load(tmp_path)
    pixels = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    ours = apply(
        CLIPVisionModel(loaded.config.image_encoder), loaded.params["image_encoder"], pixels
    )
    assert_close(ours, model(to_torch(pixels)).image_embeds)


def test_whole_clip_gives_its_image_tower(torch, randomise, tmp_path, rng, apply, to_torch):
    transformers = pytest.importorskip("transformers")
    layers = {
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = transformers.CLIPConfig(
        text_config={"vocab_size": 60, "bos_token_id": 58, "eos_token_id": 59, **layers},
        vision_config={"image_size": 32, "patch_size": 8, **layers},
        projection_dim=24,
    )
    model = randomise(transformers.CLIPModel(config), 7)
    model.save_pretrained(tmp_path)
    loaded = sd_jax.load.load(tmp_path)
    pixels = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    ours = apply(
        CLIPVisionModel(loaded.config.image_encoder), loaded.params["image_encoder"], pixels
    )
    vision = model.vision_model(to_torch(pixels)).pooler_output
    theirs = model.visual_projection(vision).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_safety_checker_flags_the_same_images(clip_models, torch, tmp_path, rng, to_torch):
    checker = clip_models.safety_checker(seed=8)
    pixels = rng.normal(size=(5, 32, 32, 3)).astype(np.float32)
    images = np.ones((5, 4, 4, 3), np.float32)
    embeds = checker.visual_projection(checker.vision_model(to_torch(pixels))[1])
    # Each image has a concept of its own, which no other image is near.
    concepts = embeds - embeds.mean(axis=0)
    cosines = torch.cosine_similarity(embeds[:, None], concepts[None], dim=-1)
    assert (cosines.argmax(dim=0) == torch.arange(5)).all()
    own = cosines.diagonal()
    others = torch.where(torch.eye(5, dtype=torch.bool), -1.0, cosines).amax(dim=0)
    between = (own + others) / 2
    checker.concept_embeds_weights.fill_(2.0)
    checker.special_care_embeds_weights.fill_(2.0)
    checker.concept_embeds[:5] = concepts
    # Image 0 is over its threshold, image 1 far under it. Images 2 and 3 are just under theirs, and
    # image 3 needs special care, which lowers all of its thresholds. Image 4 is so little over its
    # threshold that rounding takes it back.
    checker.concept_embeds_weights[:5] = own + torch.tensor([0.0, 0.2, 0.005, 0.005, -0.0003])
    checker.concept_embeds_weights[0] = between[0]
    checker.special_care_embeds[0] = concepts[3]
    checker.special_care_embeds_weights[0] = between[3]
    _, theirs = checker(clip_input=to_torch(pixels), images=images)
    assert theirs == [True, False, False, True, False]

    checker.save_pretrained(tmp_path)
    loaded = sd_jax.load.load(tmp_path)
    params = loaded.params["safety_checker"]
    ours = flag_images(loaded.config.safety_checker, params, jnp.asarray(pixels))
    assert ours.tolist() == theirs
