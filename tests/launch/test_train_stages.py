"""The stages in a row, from new weights to both fusers, as a reader of the paper would train."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnc_jax
from cnc_jax.compose import encode_prompts
from cnc_jax.condition import Condition
from cnc_jax.convert import COMPONENTS
from cnc_jax.losses import STAGES, NoiseLoss, clean_latents, condition_of
from cnc_jax.testing import untrained_model
from configs.cnc import get_config
from sd_jax.tokenizer import load_tokenizer
from input_pipeline.scenes import Scenes
from input_pipeline.stream import StreamConfig, batches
from launch.train_request import TrainError
from launch.training import plan_run, train
from sd_jax.convert.store import open_converted, save_model
from sd_jax.model import Model
from sd_jax.schedule import make_schedule
from sd_jax.typing import flat_params

SETTINGS = {
    "global_batch_size": 16,
    "learning_rate": 3e-3,
    "warmup_steps": 20,
    "log_every": 50,
    "eval_every": 10**6,
    "eval_examples": 64,
    "sample_every": 0,
    "save_every": 10**6,
    "writers": "json",
}
"""Evaluates before the first step and after the last, and saves then."""

NOISY = range(800, 1000)
"""Timesteps at which little is seen of the image, so that conditions tell much."""


def config_of(stage: str, condition: str = "depth", **settings: Any) -> Any:
    config = get_config(f"stage={stage},scale=scenes,condition={condition}")
    with config.unlocked():
        config.update({**SETTINGS, **settings})
    return config


def write_start(folder: Path) -> None:
    """Writes a Stable Diffusion that has learned nothing."""
    settings = StreamConfig(keys=("image",), batch_size=64, sizes=((64, 64),))
    with batches([Scenes(fields=("image",))], settings, stop_step=1, prefetch=0) as stream:
        model = untrained_model(jnp.asarray(next(stream)["image"]))
    configs = {name: getattr(model.config, name) for name in model.params}
    save_model(model.params, configs, folder, model.config.schedule)


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


def check_parameters(workdir: Path, starts: Sequence[Path], trained: Sequence[str]) -> None:
    """Checks that a run started from `starts`, and changed what it trains and nothing else."""
    given: dict[str, np.ndarray] = {}
    for start in reversed(starts):
        given |= tensors_of(start)
    written, now = tensors_of(workdir / "model"), tensors_of(workdir)
    new = {name for name in written if name not in given}
    assert all(name.startswith(tuple(f"{item}/" for item in trained)) for name in new)
    assert differing({n: written[n] for n in given}, given) == set()
    # Every tensor of what is trained learned something, and no other.
    assert differing(now, written) == {
        name for name in written if name.partition("/")[0] in trained
    }


class HeldOut:
    """64 scenes that no run was trained on."""

    def __init__(self, workdir: Path, config: Any) -> None:
        plan = plan_run(config, str(workdir))
        parts = plan.data.eval_batches(plan.mesh, 64)
        self.batch = {name: jnp.concatenate([part[name] for part in parts]) for name in parts[0]}
        self.keys = jax.random.split(jax.random.key(7), 64)

    def with_others(self, *names: str) -> dict[str, Any]:
        """Returns the batch in which each scene has some arrays of the next scene."""
        return {
            name: jnp.roll(array, 1, axis=0) if name in names else array
            for name, array in self.batch.items()
        }

    def losses(self, model: Model, stage: Any, batch: dict[str, Any]) -> np.ndarray:
        """Returns the loss of each scene at noisy timesteps, with the same noise every time."""
        timesteps = jnp.linspace(NOISY[0], NOISY[-1], 64).astype(jnp.int32)
        loss = jax.jit(NoiseLoss(model.config, stage).per_example)
        return np.asarray(loss({}, model.params, batch, self.keys, timesteps))


def gain(right: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    """Returns by how much of itself the loss grows, and that in standard errors of the pairs."""
    differences = wrong - right
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return float(differences.mean() / right.mean()), float(differences.mean() / error)


@jax.jit
def one_step(model: Model, noisy: Any, text: Any, condition: Condition) -> Any:
    """Returns the clean latents that a model sees in noisy ones of timestep 900."""
    noise = cnc_jax.predict_noise(model, noisy, jnp.int32(900), text, condition)
    share = jnp.asarray(make_schedule(model.config.schedule).alphas_cumprod)[900]
    return (noisy - jnp.sqrt(1 - share) * noise) / jnp.sqrt(share)


def nearer_by(model: Model, stage: Any, scenes: HeldOut) -> np.ndarray:
    """Returns for each scene how much nearer its own conditions lead than another scene's do.

    From noise alone and without words: all that is known of the scene is its conditions.
    """
    x0 = clean_latents(model, scenes.batch, scenes.keys)
    noise = jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:]))(scenes.keys)
    share = make_schedule(model.config.schedule).alphas_cumprod[900]
    noise = np.sqrt(1 - share) * noise + np.sqrt(share) * (x0 if WITH else 0)
    silence = jnp.asarray(load_tokenizer(None)([""] * len(noise)))
    text = encode_prompts(model, silence)
    condition = condition_of(model, scenes.batch, STAGES[stage])
    other = jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=0), condition)

    def distances(condition: Condition) -> np.ndarray:
        errors = one_step(model, noise, text, condition) - x0
        return np.asarray(jnp.mean(errors**2, axis=(1, 2, 3)))

    own, others = distances(condition), distances(other)
    return (others - own) / others
