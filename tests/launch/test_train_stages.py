"""The stages in a row, from new weights to both fusers, as a reader of the paper would train."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import cnc_jax
from cnc_jax.compose import encode_prompts
from cnc_jax.condition import Condition
from cnc_jax.losses import STAGES, NoiseLoss, clean_latents, condition_of
from cnc_jax.testing import untrained_fuser, untrained_model
from configs.cnc import get_config
from input_pipeline.scenes import Scenes
from input_pipeline.stream import StreamConfig, batches
from launch.train_request import TrainError
from launch.training import plan_run, train
from sd_jax.convert.store import save_model
from sd_jax.model import Model
from sd_jax.schedule import make_schedule
from sd_jax.tokenizer import load_tokenizer
from sd_jax.typing import flat_params

SETTINGS = {
    "global_batch_size": 16,
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "schedule": "constant",
    "ema_decay": 0.0,
    "warmup_steps": 20,
    "log_every": 50,
    "eval_every": 10**6,
    "eval_examples": 64,
    "sample_every": 0,
    "save_every": 10**6,
    "writers": "json",
}
"""Evaluates before the first step and after the last, and saves then."""

TRAINED = {
    "base": ("unet",),
    "local": ("local_fuser",),
    "global": ("global_fuser",),
    "joint": ("local_fuser", "global_fuser"),
}
EXEMPLARS = ("exemplar_images", "exemplars_present")


def config_of(stage: str, condition: str = "depth", **settings: Any) -> Any:
    config = get_config(f"stage={stage},scale=scenes,condition={condition}")
    with config.unlocked():
        config.update({**SETTINGS, **settings})
    return config


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """Returns a Stable Diffusion that has learned nothing."""
    settings = StreamConfig(keys=("image",), batch_size=64, sizes=((64, 64),))
    with batches([Scenes(fields=("image",))], settings, stop_step=1, prefetch=0) as stream:
        model = untrained_model(jnp.asarray(next(stream)["image"]))
    return saved(model, tmp_path_factory.mktemp("start") / "model")


def saved(model: Model, folder: Path) -> Path:
    configs = {name: getattr(model.config, name) for name in model.params}
    save_model(model.params, configs, folder, model.config.schedule)
    return folder


def evaluations(workdir: Path) -> list[dict[str, float]]:
    """Returns the losses on the fixed set by range of timesteps, first and last, with `noisy`."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    found = [line for line in lines if "eval/loss" in line]
    return [
        {**line, "noisy": (line["eval/loss_800_899"] + line["eval/loss_900_999"]) / 2}
        for line in found
    ]


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    """Returns all parameters of a run or a converted directory, as users load them."""
    return {name: np.asarray(leaf) for name, leaf in flat_params(cnc_jax.load(path).params).items()}


def differing(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> set[str]:
    """Returns the names of the tensors that have other bytes, or that one side lacks."""
    both = ours.keys() & theirs.keys()
    changed = {name for name in both if ours[name].tobytes() != theirs[name].tobytes()}
    return changed | (ours.keys() ^ theirs.keys())


def check_parameters(workdir: Path, starts: Sequence[Path], stage: str) -> None:
    """Checks that a run started from `starts`, and changed what it trains and nothing else."""
    given: dict[str, np.ndarray] = {}
    for folder in reversed(starts):
        given |= tensors_of(folder)
    written, now = tensors_of(workdir / "model"), tensors_of(workdir)
    trained = {name for name in written if name.partition("/")[0] in TRAINED[stage]}
    assert differing({name: written[name] for name in given}, given) == set()
    assert written.keys() - given.keys() <= trained
    # Every tensor of what is trained learned something, and no other.
    assert differing(now, written) == trained


class HeldOut:
    """A trained model before 64 scenes that no run was trained on."""

    def __init__(self, workdir: Path, config: Any) -> None:
        self.stage, self.model = config.stage, cnc_jax.load(workdir)
        plan = plan_run(config, str(workdir))
        parts = plan.data.eval_batches(plan.mesh, 64)
        self.batch = {name: jnp.concatenate([part[name] for part in parts]) for name in parts[0]}
        self.keys = jax.random.split(jax.random.key(7), 64)
        self._loss = jax.jit(NoiseLoss(self.model.config, self.stage).per_example)

    def losses(self, others: Sequence[str] = (), shift: int = 0) -> np.ndarray:
        """Returns the loss of each scene at noisy timesteps, with the same noise every time.

        Args:
          others: arrays of the batch of which each scene gets another's.
          shift: how far away the other stands.
        """
        batch = {
            name: jnp.roll(array, shift, axis=0) if name in others else array
            for name, array in self.batch.items()
        }
        timesteps = jnp.linspace(800, 999, 64).astype(jnp.int32)
        return np.asarray(self._loss({}, self.model.params, batch, self.keys, timesteps))

    def check_gain(self, *names: str, margin: float) -> None:
        """Checks that the loss is larger with some arrays of other scenes, by a share of itself."""
        right = self.losses()
        wrong = np.mean([self.losses(names, shift) for shift in range(1, 6)], axis=0)
        growth = wrong - right
        assert growth.mean() > margin * right.mean()
        assert errors_of(growth) > 3

    def check_estimates(self) -> None:
        """Checks that the model sees a scene rather by its conditions than by another's.

        From noise alone and without words: all that is known of the scene is its conditions.
        """
        x0 = clean_latents(self.model, self.batch, self.keys)
        noise = jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:]))(self.keys)
        text = encode_prompts(self.model, jnp.asarray(load_tokenizer(None)([""] * len(noise))))
        condition = condition_of(self.model, self.batch, STAGES[self.stage])

        def distances(condition: Condition) -> np.ndarray:
            errors = estimate(self.model, noise, text, condition) - x0
            return np.asarray(jnp.mean(errors**2, axis=(1, 2, 3)))

        own = distances(condition)
        others = distances(jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=0), condition))
        nearer = others - own
        assert errors_of(nearer) > 3
        assert (nearer > 0).mean() > 0.6


def errors_of(differences: np.ndarray) -> float:
    """Returns the mean in standard errors: that of pairs, if their differences are given."""
    return float(differences.mean() / differences.std(ddof=1) * np.sqrt(len(differences)))


@jax.jit
def estimate(model: Model, noisy: Any, text: Any, condition: Condition) -> Any:
    """Returns the clean latents that a model sees in noisy ones of timestep 900, as samplers do."""
    noise = cnc_jax.predict_noise(model, noisy, jnp.int32(900), text, condition)
    share = jnp.asarray(make_schedule(model.config.schedule).alphas_cumprod)[900]
    return (noisy - jnp.sqrt(1 - share) * noise) / jnp.sqrt(share)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_new_weights_to_both_fusers(start, tmp_path):
    folders = {name: tmp_path / name for name in ("fuser", *TRAINED)}

    def run(stage: str, *init: Path, **settings: Any) -> tuple[dict, dict, Any]:
        config = config_of(stage, init=",".join(map(str, init)), **settings)
        assert train(config, str(folders[stage]))
        check_parameters(folders[stage], init, stage)
        first, last = evaluations(folders[stage])
        return first, last, config

    first, base, _ = run("base", start, num_steps=200)
    assert base["eval/loss"] < 0.55 * first["eval/loss"]

    saved(untrained_fuser(cnc_jax.load(folders["base"])), folders["fuser"])
    first, local, config = run(
        "local", folders["fuser"], folders["base"], num_steps=400, learning_rate=4e-3
    )
    # A new local fuser adds nothing.
    assert first["eval/loss"] == pytest.approx(base["eval/loss"], rel=1e-5)
    assert local["eval/loss"] < 0.95 * base["eval/loss"]
    assert local["noisy"] < 0.93 * base["noisy"]
    scenes = HeldOut(folders["local"], config)
    scenes.check_gain("depth_maps", margin=0.1)
    scenes.check_estimates()

    first, global_, config = run("global", folders["base"], num_steps=200)
    assert first["eval/loss"] == pytest.approx(base["eval/loss"], rel=1e-2)
    assert global_["eval/loss"] < 0.98 * base["eval/loss"]
    assert global_["noisy"] < 0.95 * base["noisy"]
    scenes = HeldOut(folders["global"], config)
    scenes.check_gain(*EXEMPLARS, margin=0.05)
    scenes.check_estimates()

    _, joint, config = run(
        "joint", folders["local"], folders["global"], num_steps=80, learning_rate=1e-3
    )
    for name in ("eval/loss", "noisy"):
        assert joint[name] < min(local[name], global_[name])
    scenes = HeldOut(folders["joint"], config)
    scenes.check_gain("depth_maps", margin=0.05)
    scenes.check_gain(*EXEMPLARS, margin=0.04)
    scenes.check_estimates()


@pytest.mark.slow
def test_edges_and_pictures(start, tmp_path):
    config = config_of(
        "local",
        "canny",
        init=str(start),
        global_batch_size=4,
        num_steps=3,
        eval_every=0,
        sample_every=2,
        num_samples=2,
        sample_steps=2,
    )
    assert train(config, str(tmp_path))
    files = {int(path.parent.name): path for path in (tmp_path / "images").glob("*/samples.png")}
    assert sorted(files) == [0, 2, 3]
    sheets = [np.asarray(Image.open(path)) for path in files.values()]
    assert sheets[0].shape == sheets[1].shape == sheets[2].shape
    # The same scenes and the same noise, with another model each time.
    assert len({sheet.tobytes() for sheet in sheets}) == 3

    plan = plan_run(config, str(tmp_path))
    edges = plan.data.examples(2)["edge_maps"]
    assert edges.shape == (2, 2, 64, 64, 3)
    assert set(np.unique(edges)) == {0.0, 1.0}
    check_parameters(tmp_path, [start], "local")
    with config.unlocked():
        config.local_condition = "depth"
    with pytest.raises(TrainError, match="local_condition was 'canny' and is 'depth'"):
        plan_run(config, str(tmp_path))
