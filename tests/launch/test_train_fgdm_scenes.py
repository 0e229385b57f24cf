"""FG-DM from new weights on scenes: its maps show what prompts ask for, and images follow maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fgdm_jax
from cnc_jax.convert import COMPONENTS as CNC_COMPONENTS
from cnc_jax.load import CnCConfig
from cnc_jax.testing import untrained_fuser
from configs import cnc, fgdm, sample_fgdm
from fgdm_jax.compliance import MIN_SHARE, object_shares
from fgdm_jax.draw import Drawing, draw
from fgdm_jax.graph import parse_graph
from fgdm_jax.palette import labels_of
from fgdm_jax.vocabulary import objects_in
from input_pipeline.palettes import palette
from input_pipeline.scenes import Scenes
from input_pipeline.schema import VOID
from input_pipeline.stream import StreamConfig, batches
from launch.drawing import draw_from_config
from launch.training import train
from sd_jax.clip import CLIPTextConfig
from sd_jax.colour_autoencoder import colour_autoencoder
from sd_jax.convert.fresh import fresh_params
from sd_jax.convert.store import save_model
from sd_jax.encoding import decode_images, encode_prompts
from sd_jax.model import Model
from sd_jax.new_vocabulary import learn_vocabulary
from sd_jax.samplers import make_sampler
from sd_jax.schedule import ScheduleConfig, make_schedule, sampling_timesteps
from sd_jax.testing import random_params
from sd_jax.tokenizer import Tokenizer, load_tokenizer
from sd_jax.typing import nested_params
from sd_jax.unet import UNetConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SETTINGS = {
    "global_batch_size": 16,
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "schedule": "constant",
    "ema_decay": 0.0,
    "warmup_steps": 20,
    "log_every": 100,
    "eval_every": 10**6,
    "eval_examples": 64,
    "sample_every": 0,
    "save_every": 10**6,
    "writers": "json",
    # The shortest: what is in front, and where.
    "caption": "first",
}
"""Evaluates before the first step and after the last, and saves then."""

CLASSES = palette("scenes").classes
UNET = UNetConfig(
    block_out_channels=(32, 64),
    layers_per_block=1,
    attention_levels=(True, True),
    num_heads=2,
    cross_attention_dim=32,
    norm_num_groups=8,
)


def write_start(folder: Path) -> Path:
    """Writes a Stable Diffusion with everything to learn, whose autoencoder keeps colours."""
    settings = StreamConfig(keys=("image",), batch_size=64, sizes=((64, 64),))
    with batches([Scenes(fields=("image",))], settings, stop_step=1, prefetch=0) as stream:
        vae, autoencoder = colour_autoencoder(jnp.asarray(next(stream)["image"]))
    # With a few tokens only, none of which is padding for long, text is learned soon.
    tokenizer = Tokenizer(learn_vocabulary(captions(0, 1000)), model_max_length=16)
    tokenizer.save(folder.with_name("tokenizer"))
    text = CLIPTextConfig(
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_size=32,
        intermediate_size=64,
        num_layers=1,
        num_heads=1,
    )
    config = CnCConfig(unet=UNET, vae=vae, text_encoder=text)
    params, _ = random_params(CNC_COMPONENTS, config, 0, ("text_encoder",))
    unet = next(item for item in CNC_COMPONENTS if item.name == "unet")
    params = {**params, "vae": autoencoder, "unet": nested_params(fresh_params(unet, UNET, 0))}
    sizes = {"unet": UNET, "vae": vae, "text_encoder": text}
    schedule = ScheduleConfig(prediction_type="v_prediction")
    save_model(params, sizes, folder, schedule, tokenizer=folder.with_name("tokenizer"))
    return folder


def captions(world: int, count: int) -> list[str]:
    """Returns the first caption of each of a few scenes."""
    scenes = Scenes(seed=world, fields=("captions",))
    return [str(scenes.arrays(index)["captions"][0]) for index in range(count)]


def run(workdir: Path, config: Any, *init: Path, **settings: Any) -> tuple[dict, dict]:
    """Trains; returns the first and the last evaluation."""
    with config.unlocked():
        config.update({**SETTINGS, **settings, "init": ",".join(map(str, init))})
    assert train(config, str(workdir))
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    found = [line for line in lines if "eval/loss" in line]
    return found[0], found[-1]


def factor(name: str, **settings: Any) -> Any:
    config = fgdm.get_config(f"factor={name},scale=scenes")
    with config.unlocked():
        config.update(settings)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fgdm_scenes")


@pytest.fixture(scope="module")
def base(folder) -> Path:
    """Returns a run that made a Stable Diffusion of scenes."""
    start = write_start(folder / "start")
    config = cnc.get_config("stage=base,scale=scenes")
    first, last = run(folder / "base", config, start, num_steps=1000)
    assert last["eval/loss"] < 0.35 * first["eval/loss"]
    return folder / "base"


@pytest.fixture(scope="module")
def segmentation(folder, base) -> Path:
    """Returns a run that trained a factor of segmentations on it."""
    first, last = run(folder / "segmentation", factor("segmentation"), base, num_steps=1000)
    assert last["eval/loss"] < 0.85 * first["eval/loss"]
    return folder / "segmentation"


@pytest.fixture(scope="module")
def both(folder, segmentation) -> Path:
    """Returns a run that trained a factor of images that see segmentations."""
    first, last = run(folder / "both", factor("image"), segmentation, num_steps=200)
    assert last["eval/loss"] < 0.98 * first["eval/loss"]
    return folder / "both"


def asked_of(prompts: list[str]) -> np.ndarray:
    """Returns which classes captions ask for, [caption class]."""
    found = [objects_in(prompt, CLASSES) for prompt in prompts]
    return np.array([[name in objects for name in CLASSES] for objects in found])


def drawn_jointly(workdir: Path, prompts: list[str]) -> dict[str, np.ndarray]:
    """Returns pictures of segmentation and image by name, one of each for a prompt."""
    model = fgdm_jax.load(workdir)
    graph = parse_graph("segmentation, image<segmentation")
    names = [factor.variable for factor in graph]
    table = make_sampler(
        "dpmpp_2m", make_schedule(model.config.schedule), sampling_timesteps(20, 1000, "trailing")
    )
    drawing = Drawing(
        graph,
        dict.fromkeys(names, (16, 16)),
        dict.fromkeys(names, table),
        dict.fromkeys(names, 3.0),
    )
    ids = load_tokenizer(workdir / "model" / "tokenizer")([*prompts, ""])
    text = encode_prompts(model, jnp.asarray(ids))
    negative = jnp.repeat(text[-1:], len(prompts), axis=0)
    keys = jax.random.split(jax.random.key(5), len(prompts))
    state = draw(model, drawing, text[:-1], keys, negative_embeddings=negative).factors
    return {
        name: np.asarray(decode_images(model, state[name].latents, dtype=jnp.float32, slice_size=8))
        for name in names
    }


def shown_in(pictures: np.ndarray) -> np.ndarray:
    """Returns which classes segmentations show, [picture class]."""
    labels = labels_of(jnp.asarray(pictures), palette("scenes").colours, void=VOID)
    return np.asarray(object_shares(labels, range(len(CLASSES)))) >= MIN_SHARE


def recall(asked: np.ndarray, shown: np.ndarray) -> np.ndarray:
    return (asked & shown).sum(axis=1) / asked.sum(axis=1)


def test_maps_show_what_prompts_ask_for(both):
    # Of a world that no run has seen.
    prompts = captions(1, 64)
    asked = asked_of(prompts)
    assert (asked.sum(axis=1) > 0).all()
    pictures = drawn_jointly(both, prompts)
    shown = shown_in(pictures["segmentation"])
    own = recall(asked, shown)
    # Chance: maps that were drawn for other prompts, so as full and as mixed as these.
    others = np.mean(
        [recall(asked, np.roll(shown, shift, axis=0)) for shift in range(1, 9)], axis=0
    )
    print(f"recall {own.mean():.3f}, of other prompts' maps {others.mean():.3f}")
    gain = own - others
    assert gain.mean() > 0.1
    assert gain.mean() / gain.std(ddof=1) * np.sqrt(len(gain)) > 4


def test_a_chain_of_three_is_drawn(folder, both, tmp_path):
    run(folder / "chain", factor("chain"), segmentation_only(both), num_steps=20)
    sampled(folder / "chain", tmp_path / "out", "chain", num_draws=3)
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert {"000002_segmentation.png", "000002_depth.png", "contact_sheet.png"} <= names


def segmentation_only(both: Path) -> Path:
    """Returns the run before the image's adapter, which sees one parent less than the chain's."""
    return both.parent / "segmentation"


def test_a_text_becomes_layered_depth_and_a_composition(folder, base, tmp_path):
    run(folder / "layered", factor("layered"), base, num_steps=20)
    model = fgdm_jax.load(base)
    fuser = untrained_fuser(Model({"unet": model.params["unet"]}, model.config))
    sizes = {"local_fuser": fuser.config.local_fuser}
    save_model(fuser.params, sizes, tmp_path / "fuser", fuser.config.schedule)
    checkpoints = f"{folder / 'layered'},{tmp_path / 'fuser'}"
    sampled(checkpoints, tmp_path / "out", "layered")
    assert np.asarray(Image.open(tmp_path / "out" / "000000.png")).shape == (64, 64, 3)
    depth = np.asarray(Image.open(tmp_path / "out" / "000000_foreground_depth.png"))
    assert depth.std() > 0


def sampled(checkpoint: Any, output: Path, preset: str, **settings: Any) -> None:
    config = sample_fgdm.get_config(f"graph={preset}")
    sizes = dict.fromkeys(("map_height", "map_width", "height", "width"), 64)
    steps = dict.fromkeys(("map_steps", "num_steps"), 10)
    prompt = {"prompt": "a red ball on grass", "palette": "scenes"}
    fixed = {"checkpoint": str(checkpoint), "output": str(output)}
    config.update({**sizes, **steps, **prompt, **fixed, "spacing": "trailing", **settings})
    draw_from_config(config)
