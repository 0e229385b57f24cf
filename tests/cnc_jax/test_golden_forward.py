"""One forward pass against the original code: the model in its three modes, and each block."""

from __future__ import annotations

from types import SimpleNamespace

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from cnc_jax import Condition, predict_noise
from cnc_jax.global_fuser import GlobalFuser
from cnc_jax.local_fuser import FeatureExtractor, LocalFuser
from sd_jax.layers import ResnetBlock, SpatialTransformer, TimestepEmbedding, Upsample
from sd_jax.testing import quick_jit, relative_rms
from sd_jax.unet import UNet, UNetEncoder

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5

NETWORKS = (UNet, LocalFuser, GlobalFuser)
WATCHED = (
    *(FeatureExtractor, UNetEncoder),
    *(ResnetBlock, SpatialTransformer, TimestepEmbedding, Upsample),
)


@quick_jit
def watched_forward(model, latents, timesteps, text, condition):
    """Returns the predicted noise, and what the modules inside it returned."""
    outputs, network = {}, [""]

    def watch(call, args, kwargs, context):
        module = context.module
        if isinstance(module, NETWORKS):
            network[0] = type(module).__name__
        result = call(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(module, NETWORKS + WATCHED):
            # The encoder shares the scope of its network, so the path alone does not tell it.
            own = "encoder" if isinstance(module, UNetEncoder) else ""
            outputs["/".join(filter(None, (network[0], *module.path, own)))] = result
        return result

    with nn.intercept_methods(watch):
        noise = predict_noise(model, latents, timesteps, text, condition)
    return noise, outputs


@pytest.fixture(scope="module")
def run(golden_model, golden_inputs):
    """Returns condition -> (noise, outputs of the modules), for the goldens' other inputs."""

    def forward(condition, text=golden_inputs.text, **changes):
        inputs = SimpleNamespace(**{**vars(golden_inputs), **changes})
        return watched_forward(golden_model, inputs.latents, inputs.timesteps, text, condition)

    return forward


@pytest.fixture(scope="module")
def whole(run, golden_inputs):
    """Returns the outputs of the modules inside the whole model."""
    return run(golden_inputs.condition)[1]


@pytest.fixture(scope="module")
def local_only(run, golden_inputs):
    """Returns noise and module outputs with nothing but depth maps."""
    return run(Condition(depth_maps=golden_inputs.condition.depth_maps))


def assert_close(ours, theirs, tolerance=TOLERANCE):
    theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
    assert relative_rms(ours, theirs) <= tolerance


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("eps_cnc", {}),
        ("eps_cnc_strength_0.5_1.5", {"exemplar_strengths": (0.5, 1.5)}),
        ("eps_cnc_scales_0.7", {"residual_scales": 0.7}),
        ("eps_cnc_mask_zero", {"masks": 0.0}),
        ("eps_cnc_mask_one", {"masks": 1.0}),
        ("eps_cnc_all_conditions_zero", {"depth_maps": 0.0, "exemplar_embeddings": 0.0}),
    ],
)
def test_whole_model(run, golden, golden_inputs, name, changes):
    condition = golden_inputs.condition
    changed = {
        field: jnp.broadcast_to(jnp.float32(value), getattr(condition, field).shape)
        for field, value in changes.items()
    }
    noise, _ = run(condition.replace(**changed))
    assert_close(noise, golden("eps")[name])


@pytest.mark.parametrize(
    ("name", "strengths"),
    [("eps_global", (1.0, 1.0)), ("eps_global_strength_0.5_1.5", (0.5, 1.5))],
)
def test_global_fuser_alone(run, golden, golden_inputs, name, strengths):
    condition = golden_inputs.condition.replace(
        depth_maps=None, exemplar_strengths=jnp.array(strengths)
    )
    noise, outputs = run(condition)
    assert_close(noise, golden("eps")[name])
    assert not any(path.startswith("LocalFuser") for path in outputs)


def test_local_fuser_alone(local_only, golden):
    noise, outputs = local_only
    assert_close(noise, golden("eps")["eps_local"])
    assert not any(path.startswith("GlobalFuser") for path in outputs)


@pytest.mark.parametrize("index", range(13))
def test_local_fuser_residuals(whole, local_only, golden, index):
    fusers = golden("fusers")
    assert len(whole["LocalFuser"]) == 13
    assert_close(whole["LocalFuser"][index], fusers[f"local_fuser.{index:02}"])
    # Alone it sees neither the exemplars' tokens nor the mask.
    alone = local_only[1]["LocalFuser"][index]
    assert_close(alone, fusers[f"local_mode.local_fuser.{index:02}"])


def test_global_fuser_tokens(whole, golden):
    tokens = whole["GlobalFuser"]
    assert tokens.shape == (2, 2, 4, 64)
    assert_close(tokens.reshape(2, 8, 64), golden("fusers")["global_fuser"])


@pytest.mark.parametrize("level", range(4))
def test_feature_extractor(whole, golden, level):
    features = whole["LocalFuser/feature_extractor"]
    assert_close(features[level], golden("fusers")[f"feature_extractor.{level}"])


def test_time_embedding(whole, golden):
    assert_close(whole["UNet/time_embedding"], golden("layers")["unet_time_embed"])
    # The local fuser has one of its own.
    ours, theirs = whole["LocalFuser/time_embedding"], golden("layers")["unet_time_embed"]
    assert relative_rms(ours, theirs) > 0.1


@pytest.mark.parametrize("index", range(12))
def test_encoder_blocks(whole, golden, index):
    _, skips = whole["UNet/encoder"]
    assert len(skips) == 12
    assert_close(skips[index], golden("unet_blocks")[f"unet.input_blocks.{index:02}"])


def test_middle_block(whole, golden):
    middle, _ = whole["UNet/encoder"]
    assert_close(middle, golden("unet_blocks")["unet.middle_block"])


@pytest.mark.parametrize("index", range(12))
def test_decoder_blocks(whole, golden, index):
    block, layer = divmod(index, 3)
    # What the original calls a block ends with the last of these that is there.
    candidates = [f"attentions_{layer}", f"resnets_{layer}"]
    if layer == 2:
        candidates.insert(0, "upsamplers_0")
    paths = [f"UNet/up_blocks_{block}/{name}" for name in candidates]
    output = next(whole[path] for path in paths if path in whole)
    assert_close(output, golden("unet_blocks")[f"unet.output_blocks.{index:02}"])


def test_both_predictions_of_a_guided_step(run, golden, golden_inputs):
    inputs = golden_inputs
    for text, name in ((inputs.text, "eps_cond"), (inputs.negative, "eps_uncond")):
        noise, _ = run(
            inputs.condition, text, latents=inputs.initial, timesteps=jnp.array([801, 801])
        )
        assert_close(noise, golden("ddim")[f"step801.{name}"])


def test_goldens_tell_conditions_apart(golden):
    # Otherwise agreeing with all of them would mean little.
    eps = golden("eps")
    names = sorted(eps)
    distances = [relative_rms(eps[a], eps[b]) for i, a in enumerate(names) for b in names[i + 1 :]]
    assert np.min(distances) > 1000 * TOLERANCE
