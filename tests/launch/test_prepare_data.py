"""launch.prepare_data from raw trees to shards, with tiny networks of the real classes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnc_jax.convert import COMPONENTS
from configs.prepare import get_config
from input_pipeline.codecs import decode_field
from input_pipeline.shards.records import ShardedRecords
from input_pipeline.testing import write_coco, write_upstream
from launch.prepare_settings import PrepareError, parse_classes, parse_sizes
from launch.preparing import prepare
from sd_jax.clip import CLIPVisionModel
from sd_jax.load import open_checkpoints
from sd_jax.model import StableDiffusionConfig
from sd_jax.vae import encode_images
from tests.launch.tiny_networks import write_dpt, write_inpainting

ROOT = Path(__file__).parents[2]
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


def config_of(dataset: str = "coco", **changes: Any) -> Any:
    config = get_config(f"dataset={dataset}")
    config.update(changes)
    return config


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


def test_cached_values_are_those_of_the_networks(prepared, networks):
    opened = open_checkpoints([networks["clip"]], COMPONENTS)
    model = opened.load(StableDiffusionConfig, ("vae", "image_encoder"))
    image = decoded(prepared, 1, "image")
    pixels = jnp.asarray(image, jnp.float32)[None] / 127.5 - 1
    latents = encode_images(model.config.vae, model.params["vae"], pixels)
    mean = prepared[1]["latent_mean"].astype(np.float32) * model.config.vae.scaling_factor
    np.testing.assert_allclose(mean, latents[0], rtol=2e-3, atol=2e-3)

    from input_pipeline.images import clip_pixels

    tower = CLIPVisionModel(model.config.image_encoder)
    picture = clip_pixels(image, model.config.image_encoder.image_size)[None]
    expected = tower.apply({"params": model.params["image_encoder"]}, jnp.asarray(picture))[0]
    np.testing.assert_allclose(prepared[1]["image_embedding"], expected, rtol=1e-4, atol=1e-4)
    assert np.abs(prepared[1]["background_embedding"] - expected).max() > 1e-3


def test_the_background_is_painted_under_the_mask(prepared):
    for index in range(2):
        image, background = (
            decoded(prepared, index, "image"),
            decoded(prepared, index, "background"),
        )
        assert image.shape == background.shape
        assert np.abs(image.astype(int) - background).mean() > 1


def test_it_goes_on_where_it_was(coco, networks, tmp_path):
    settings = {"root": str(coco), "output": str(tmp_path / "o"), "sizes": "64x64", "num_shards": 2}
    first = config_of(**settings, steps="image,mask,edges", task_index=0, task_count=2)
    assert prepare(first) is None
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*00000-of-00002")}
    assert len(made) == 5
    assert prepare(config_of(**settings, steps="image,mask,edges")) == tmp_path / "o"
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert len(ShardedRecords(tmp_path / "o")) == 5
    other = config_of(**settings, steps="image,mask,edges", canny_low=50.0)
    with pytest.raises(PrepareError, match=r"2 of step 'edges': low was 100.0, is 50.0"):
        prepare(other)
    other.remake = True
    assert prepare(other) == tmp_path / "o"


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


def test_sizes_and_classes():
    assert parse_sizes("512x512, 448x576") == ((512, 512), (448, 576))
    assert parse_classes("0-2,90, 1") == (0, 1, 2, 90)


def test_the_command_itself(coco, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "launch.prepare_data",
            "--config=configs/prepare.py:dataset=coco",
            f"--config.root={coco}",
            f"--config.output={tmp_path / 'shards'}",
            "--config.steps=image,mask",
            "--config.sizes=64x64",
            "--config.workers=2",
            "--config.num_shards=2",
        ],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "mask: 5 records" in done.stderr
    assert len(ShardedRecords(tmp_path / "shards")) == 5


def test_device_batches_fill_up_and_split():
    from launch.device_batches import DeviceBatches

    batches = DeviceBatches(3)
    assert batches.batch_size % jax.local_device_count() == 0
    shapes = []

    @jax.jit
    def double(rows):
        shapes.append(rows.shape)
        return {"twice": 2 * rows}

    rows = batches.run(double, [np.float32(1), np.float32(5)])
    assert [float(row["twice"]) for row in rows] == [2, 10]
    batches.run(double, [np.float32(1)])
    assert len(shapes) == 1
    with pytest.raises(ValueError, match="got 0 rows"):
        batches.run(double, [])
