"""launch.prepare_data from raw trees to shards, with tiny networks of the real classes."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnc_jax.convert import COMPONENTS
from input_pipeline.codecs import decode_field, decode_picture, encode_picture
from input_pipeline.depth_estimator import load_depth_estimator
from input_pipeline.images import clip_pixels
from input_pipeline.prepare.depths import Depths
from input_pipeline.schema import RecordError
from input_pipeline.shards.records import ShardedRecords
from input_pipeline.testing import write_coco, write_upstream
from launch.prepare_settings import PrepareError, parse_classes, parse_sizes
from launch.prepare_steps import Background, ImageEmbeddings, Latents, TextEmbeddings
from launch.preparing import prepare
from sd_jax.clip import CLIPVisionModel, encode_text
from sd_jax.inpaint import inpaint
from sd_jax.load import open_checkpoints
from sd_jax.model import Model, StableDiffusionConfig
from sd_jax.samplers import make_sampler
from sd_jax.schedule import make_schedule, sampling_timesteps
from sd_jax.tokenizer import load_tokenizer
from sd_jax.vae import encode_images
from tests.input_pipeline.tiny_dpt import write_dpt
from tests.launch.commands import launched
from tests.launch.prepare_config import config_of
from tests.launch.tiny_networks import write_inpainting

ALL_STEPS = "image,mask,background,depth,edges,embeddings,latents,text"


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, str]:
    """Settings that name tiny networks."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("networks")
    model = str(write_inpainting(folder / "inpainting"))
    return {
        "inpainting": model,
        "clip": model,
        "autoencoder": model,
        "text_encoder": model,
        "depth_estimator": str(write_dpt(folder / "dpt")),
    }


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    write_coco(root, 5, (96, 80))
    return root


@pytest.fixture(scope="module")
def prepared(coco, networks, tmp_path_factory) -> ShardedRecords:
    """COCO with everything that there is."""
    output = tmp_path_factory.mktemp("prepared") / "shards"
    config = config_of(
        root=str(coco),
        output=str(output),
        steps=ALL_STEPS,
        sizes="64x64",
        dilation=6,
        num_steps=2,
        num_shards=2,
        batch_size=2,
        **networks,
    )
    assert prepare(config) == output
    return ShardedRecords(output)


def decoded(records: ShardedRecords, index: int, name: str) -> Any:
    return decode_field("test", name, records[index][name])


def test_every_field_is_there(prepared):
    assert len(prepared) == 5
    record = prepared[0]
    assert set(record) == {
        "id", "source", "captions", "height", "width", "image", "mask", "background", "depth",
        "foreground_depth", "background_depth", "normal", "segmentation", "canny", "sketch",
        "image_embedding", "background_embedding", "latent_mean", "latent_logvar",
        "text_embeddings",
    }  # fmt: skip
    assert record["source"] == "coco"
    assert len(record["captions"]) == 5
    assert (record["height"], record["width"]) == (64, 64)
    assert record["latent_mean"].shape == (8, 8, 4)
    assert record["text_embeddings"].shape == (5, 77, 64)
    for name in ("depth", "background_depth"):
        depth = decoded(prepared, 0, name)
        assert (depth.min(), depth.max()) == (0, 65535)


def test_the_mask_is_the_things(prepared):
    labels, mask = decoded(prepared, 2, "segmentation"), decoded(prepared, 2, "mask")
    np.testing.assert_array_equal(mask == 255, labels <= 90)
    assert 0 < (mask == 255).mean() < 1


@pytest.fixture(scope="module")
def model(networks) -> Model:
    """The networks of the one checkpoint, but the depth network."""
    names = ("unet", "vae", "text_encoder", "image_encoder")
    return open_checkpoints([networks["clip"]], COMPONENTS).load(StableDiffusionConfig, names)


def text_states(model: Model, texts: list[str]) -> jax.Array:
    # The checkpoint brings no tokenizer, so it is CLIP's.
    ids = jnp.asarray(load_tokenizer(None)(texts))
    return encode_text(model.config.text_encoder, model.params["text_encoder"], ids)


def test_cached_values_are_those_of_the_networks(prepared, model):
    image = decoded(prepared, 1, "image")
    pixels = jnp.asarray(image, jnp.float32)[None] / 127.5 - 1
    latents = encode_images(model.config.vae, model.params["vae"], pixels)
    mean = prepared[1]["latent_mean"].astype(np.float32) * model.config.vae.scaling_factor
    np.testing.assert_allclose(mean, latents[0], rtol=2e-3, atol=2e-3)

    tower = CLIPVisionModel(model.config.image_encoder)
    picture = clip_pixels(image, model.config.image_encoder.image_size)[None]
    expected = tower.apply({"params": model.params["image_encoder"]}, jnp.asarray(picture))[0]
    np.testing.assert_allclose(prepared[1]["image_embedding"], expected, rtol=1e-4, atol=1e-4)
    assert np.abs(prepared[1]["background_embedding"] - expected).max() > 1e-3


def test_text_embeddings_are_the_states_of_the_captions(prepared, model):
    expected = text_states(model, prepared[3]["captions"])
    np.testing.assert_allclose(prepared[3]["text_embeddings"], expected, rtol=2e-3, atol=2e-3)
    assert np.abs(expected[0] - expected[1]).max() > 0.1


def test_depths_are_those_of_the_layers_pictures(prepared, networks):
    image, mask = decoded(prepared, 2, "image"), decoded(prepared, 2, "mask")
    pictures = {
        "depth": image,
        "foreground_depth": np.where(mask[..., None] > 0, image, np.uint8(0)),
        "background_depth": decoded(prepared, 2, "background"),
    }
    expected = load_depth_estimator(networks["depth_estimator"])(list(pictures.values()))
    for name, depth in zip(pictures, expected, strict=True):
        assert depth.max() == 1
        np.testing.assert_allclose(decoded(prepared, 2, name) / 65535, depth, atol=2e-3)
    assert np.abs(expected[0] - expected[1]).mean() > 0.01


def test_the_background_is_what_inpainting_paints(prepared, model):
    ndimage = pytest.importorskip("scipy.ndimage")
    prompts = [
        "empty scenery, ultra detailed, no people",
        "low resolution, worst quality, low quality",
    ]
    text = text_states(model, prompts)
    timesteps = sampling_timesteps(2, model.config.schedule.num_train_timesteps)
    table = make_sampler("ddim", make_schedule(model.config.schedule), timesteps)
    images, masks = (
        np.stack([decoded(prepared, index, name) for index in range(2)])
        for name in ("image", "mask")
    )
    grown = [ndimage.binary_dilation(mask > 0, np.ones((6, 6))) for mask in masks]
    numbers = [zlib.crc32(prepared[index]["id"].encode()) for index in range(2)]
    painted = inpaint(
        model,
        jnp.asarray(images, jnp.float32) / 127.5 - 1,
        jnp.asarray(grown, jnp.float32),
        *(jnp.repeat(row[None], 2, axis=0) for row in text),
        table,
        jax.vmap(lambda n: jax.random.fold_in(jax.random.key(0), n))(jnp.uint32(numbers)),
        guidance_scale=10.0,
    )
    expected = np.rint(np.clip(np.asarray(painted) * 127.5 + 127.5, 0, 255)).astype(np.uint8)
    for index, pixels in enumerate(expected):
        through_jpeg = decode_picture(encode_picture(pixels, "photo"), "photo")
        background = decoded(prepared, index, "background")
        difference = np.abs(background.astype(int) - through_jpeg)
        # Where a value was rounded the other way, JPEG changes the block around it, by little.
        assert (difference == 0).mean() > 0.95
        assert difference.mean() < 0.1


def spoiled(*shape: int) -> np.ndarray:
    array = np.zeros(shape, np.float32)
    array[0, 0] = np.nan
    return array


@pytest.mark.parametrize(
    ("step", "result"),
    [
        (Background("x"), (spoiled(8, 8, 3), np.zeros((8, 8, 3), np.uint8), np.ones((8, 8)))),
        (ImageEmbeddings("x"), [np.zeros(4, np.float32), spoiled(2, 2)[0]]),
        (Latents("x"), (np.zeros((2, 2, 4), np.float32), spoiled(2, 2, 4))),
        # Finite until it is stored.
        (Latents("x"), (np.full((2, 2, 4), 1e6, np.float32), np.zeros((2, 2, 4), np.float32))),
        (TextEmbeddings("x"), spoiled(5, 7, 4)),
        (Depths("x", layers=False), [spoiled(8, 8)]),
    ],
    ids=["background", "embeddings", "latents", "latents in half", "text", "depth"],
)
def test_outputs_that_are_not_finite_are_refused(step, result):
    with pytest.raises(ValueError, match=r"not finite|NaN or infinite"):
        step.encode(result)


def test_a_network_that_fails_stops_the_work_and_says_why(coco, networks, tmp_path, monkeypatch):
    def compute(self: Any, values: Any) -> list[np.ndarray]:
        return [spoiled(5, 77, 8) for _ in values]

    monkeypatch.setattr(TextEmbeddings, "compute", compute)
    config = config_of(
        root=str(coco),
        output=str(tmp_path / "o"),
        steps="image,text",
        sizes="64x64",
        num_shards=1,
        text_encoder=networks["text_encoder"],
    )
    with pytest.raises(RecordError, match=r"1 records are unreadable, allowed are 0") as error:
        prepare(config)
    assert "coco record 000000000009: the network's output" in str(error.value)
    assert "is not finite; use --config.dtype=float32, or another checkpo" in str(error.value)
    assert "(step 'text')" in str(error.value)


def test_all_problems_are_listed(tmp_path):
    config = config_of(
        steps="image,maks,background,latents",
        sizes="500x512",
        mask_classes="7-3",
        num_shards=-1,
        autoencoder=str(tmp_path / "nowhere"),
        task_index=3,
        name="My Data",
        saliency="u2net.onnx",
        beam_options="--runner=DirectRunner",
    )
    with pytest.raises(PrepareError) as error:
        prepare(config)
    for part in (
        "output is empty",
        "root is empty",
        "unknown step 'maks'; did you mean 'mask'?",
        "step 'background' needs inpainting",
        "autoencoder: there is no",
        "'500x512' is no HEIGHTxWIDTH in multiples of 8",
        "'7-3' is no label",
        "num_shards must be at least 0, got -1",
        "task_index must be from 0 to 0, got 3",
        "got 'My Data'",
        "beam_options need Apache Beam",
    ):
        assert part in str(error.value)


def test_a_checkpoint_of_another_kind(coco, networks, demo, tmp_path):
    config = config_of(
        root=str(coco),
        output=str(tmp_path / "o"),
        steps="image,mask,background",
        sizes="64x64",
        inpainting=demo["checkpoint"],
    )
    with pytest.raises(ValueError, match="takes 4 channels, an inpainting one takes 9"):
        prepare(config)


def test_upstreams_tree_with_its_embeddings(tmp_path):
    torch = pytest.importorskip("torch")

    def save(embedding: np.ndarray, path: Path) -> None:
        torch.save(torch.from_numpy(embedding)[None], path)

    write_upstream(tmp_path / "raw", save)
    config = config_of(
        "upstream",
        root=str(tmp_path / "raw"),
        output=str(tmp_path / "o"),
        sizes="64x64",
        steps="",
        num_shards=1,
    )
    prepare(config)
    records = ShardedRecords(tmp_path / "o")
    assert records[0]["image_embedding"].dtype == np.float32
    assert records[0]["image_embedding"].ndim == 1
    assert {"mask", "background", "foreground_depth", "background_depth"} <= set(records.fields)


def test_lists_that_are_none():
    with pytest.raises(PrepareError) as error:
        prepare(config_of(steps="[image", sizes="[64x64"))
    assert "'[image' begins like a JSON list, but is none" in str(error.value)
    assert "'[64x64' begins like a JSON list, but is none" in str(error.value)


def test_sizes_and_classes():
    assert parse_sizes("512x512, 448x576") == ((512, 512), (448, 576))
    assert parse_classes("0-2,90, 1") == (0, 1, 2, 90)


def test_the_command_itself(coco, tmp_path):
    said = launched(
        "prepare_data",
        "--config=configs/prepare.py:dataset=coco",
        f"--config.root={coco}",
        f"--config.output={tmp_path / 'shards'}",
        "--config.steps=image,mask",
        "--config.sizes=64x64",
        "--config.workers=2",
        "--config.num_shards=2",
    )
    assert "mask: 5 records" in said
    assert len(ShardedRecords(tmp_path / "shards")) == 5
